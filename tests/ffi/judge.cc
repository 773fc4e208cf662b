#include "judge.h"

#include "../../ffi/cpu/handlers.h"

namespace {

constexpr int64_t largest_buffer = 1 << 20;

std::string judge_results(const Call& call) {
  for (size_t i = 0; i < call.results.size(); ++i)
    if (const size_t count = count_marked(call.results[i]))
      return std::to_string(count) + " elements of result " + std::to_string(i) + " were not written";
  return "";
}

}  // namespace

bool prepare(Prng& random, Call& call) {
  for (Buffer& operand : call.operands)
    if (!allocate(operand, largest_buffer)) return false;
  for (Buffer& result : call.results) {
    if (!allocate(result, largest_buffer)) return false;
    mark(result);
  }
  fill_operands(random, call);
  return true;
}

std::string run_and_judge(Call& call, bool is_valid, XLA_FFI_ExecutionContext& context) {
  if (!is_valid) {
    for (Buffer& operand : call.operands) point_nowhere(operand);
    for (Buffer& result : call.results) point_nowhere(result);
  }
  const std::unique_ptr<XLA_FFI_Error> error =
      Frame(call, &context).run(call.backward ? jax_fa4_cpu_backward : jax_fa4_cpu_forward);
  if (is_valid && error) return "a valid call was refused: " + error->message;
  if (!is_valid && !error) return "an invalid call was accepted";
  if (error && error->code != XLA_FFI_Error_Code_INVALID_ARGUMENT) return "a wrong error code with: " + error->message;
  // Of a wrong stage XLA's own headers speak.
  const bool ours = call.stage != XLA_FFI_ExecutionStage_EXECUTE || (error && error->message.starts_with("jax_fa4"));
  if (error && !ours) return "an error that does not say whose it is: " + error->message;
  if (error && error->message.size() < 25) return "an error of few words: " + error->message;
  return error ? "" : judge_results(call);
}
