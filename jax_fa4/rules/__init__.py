"""How the primitives take part in JAX's transformations."""
