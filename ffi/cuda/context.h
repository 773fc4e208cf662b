// The context that a call runs in, current on the calling thread for as long as the object lives.
#pragma once

#include "driver.h"

namespace jax_fa4::cuda {

class CurrentContext {
 public:
  // That of XLA's stream: hosts have several GPUs, and which one is current is not for us to assume.
  static CurrentContext of_stream(const Driver& driver, CUstream stream);
  // The primary context of the first GPU.
  static CurrentContext of_first_device(const Driver& driver);

  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;
  ~CurrentContext();

  CUcontext get() const { return context_; }

 private:
  CurrentContext(const Driver& driver, CUcontext context);

  const Driver& driver_;
  CUcontext context_;
};

}  // namespace jax_fa4::cuda
