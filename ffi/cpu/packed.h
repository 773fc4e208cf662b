// Keys and values of one key/value head, tile by tile, in the form that the engine multiplies. A call with several tiles
// of rows packs them once, in a phase of its own; what is read only once is packed where it is used.
#pragma once

namespace {

using jax_fa4::cpu::Pass;

template <class E>
struct PackedTile {
  using Item = typename E::Item;
  Item* key;               // rows are keys: logits
  Item* value_transposed;  // rows are dimensions: output (forward)
  Item* value;             // rows are keys: gradient of probabilities (backward)
  Item* key_transposed;    // rows are dimensions: query gradient (backward)
  int64_t room;            // keys, the depth of the transposed ones

  // Keys that a tile has room for: short sequences must not take the memory of long ones.
  static int64_t room_for(const Problem& p) { return rounded_up(least(E::tile_keys, p.key_length), E::key_step); }

  static int64_t size(const Problem& p, Pass pass) {
    const int64_t room = room_for(p);
    const int64_t key = E::left_size(room, p.head_dim), value = E::left_size(room, p.value_head_dim);
    const int64_t key_transposed = E::left_size(p.head_dim, room);
    const int64_t value_transposed = E::left_size(p.value_head_dim, room);
    return pass == Pass::forward ? key + value_transposed : key + value + key_transposed;
  }

  PackedTile() : key(nullptr) {}
  PackedTile(const Problem& p, Pass pass, Item* memory) : key(memory), room(room_for(p)) {
    Item* const after_key = memory + E::left_size(room, p.head_dim);
    value_transposed = value = after_key;
    key_transposed = pass == Pass::backward ? after_key + E::left_size(room, p.value_head_dim) : nullptr;
  }
};

// Rows as they are read, before they are packed.
template <class E>
struct PackScratch {
  typename E::Real* rows;

  PackScratch(Carver& carver, const Problem& p)
      : rows(carver.take<typename E::Real>(E::tile_keys * most(p.head_dim, p.value_head_dim))) {}
};

template <class E>
void pack_tile(const Problem& p, Pass pass, const Sequences& at, int64_t batch, int64_t head, KeyTile keys,
               const PackedTile<E>& to, PackScratch<E>& scratch) {
  // What the depth of a product goes beyond the last key must be 0: 0 times garbage may be NaN.
  const int64_t depth = rounded_up(keys.count, E::key_step);
  load_keys(scratch.rows, p.head_dim, p.key, at, batch, keys, p.key_value_heads, head, p.head_dim);
  if (depth > keys.count)
    memset(scratch.rows + keys.count * p.head_dim, 0, size_t((depth - keys.count) * p.head_dim) * sizeof(*scratch.rows));
  E::pack_left(to.key, scratch.rows, p.head_dim, depth, p.head_dim);
  if (pass == Pass::backward)
    E::pack_left_transposed(to.key_transposed, to.room, scratch.rows, p.head_dim, p.head_dim, depth);

  load_keys(scratch.rows, p.value_head_dim, p.value, at, batch, keys, p.key_value_heads, head, p.value_head_dim);
  if (depth > keys.count)
    memset(scratch.rows + keys.count * p.value_head_dim, 0,
           size_t((depth - keys.count) * p.value_head_dim) * sizeof(*scratch.rows));
  if (pass == Pass::forward)
    E::pack_left_transposed(to.value_transposed, to.room, scratch.rows, p.value_head_dim, p.value_head_dim, depth);
  else
    E::pack_left(to.value, scratch.rows, p.value_head_dim, depth, p.value_head_dim);
}

// One tile of keys of one head, for all that will read it.
template <class E>
void pack_task(const Problem& p, const Plan& plan, Pass pass, int64_t task, void* memory) {
  using Item = typename E::Item;
  Carver carver(memory);
  PackScratch<E> scratch(carver, p);
  const int64_t tile = task % plan.key_tiles, unit = task / plan.key_tiles;
  const int64_t head = unit % p.key_value_heads, batch = unit / p.key_value_heads;
  const PackedTile<E> to(p, pass, static_cast<Item*>(plan.packed) + task * PackedTile<E>::size(p, pass));
  const int64_t first = tile * E::tile_keys;
  pack_tile(p, pass, sequences_of(p, batch), batch, head, {first, least(E::tile_keys, p.key_length - first)}, to,
            scratch);
}

// The tile, from where it was packed or packed into `own` now.
template <class E>
PackedTile<E> packed_tile(const Problem& p, const Plan& plan, Pass pass, const Sequences& at, int64_t batch,
                          int64_t head, KeyTile keys, typename E::Item* own, PackScratch<E>& scratch) {
  using Item = typename E::Item;
  const int64_t task = (batch * p.key_value_heads + head) * plan.key_tiles + keys.first / E::tile_keys;
  const PackedTile<E> tile(
      p, pass, plan.packed ? static_cast<Item*>(plan.packed) + task * PackedTile<E>::size(p, pass) : own);
  if (!plan.packed) pack_tile(p, pass, at, batch, head, keys, tile, scratch);
  return tile;
}

}  // namespace
