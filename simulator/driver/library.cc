// Libraries and modules: PTX text to kernels (CUDA driver API, "Library Management", "Module Management").
#include <cctype>
#include <charconv>
#include <cstring>

#include "driver/state.h"
#include "ptx/ptx.h"

namespace sim::driver {
namespace {

// Where a caller wants the compiler's messages: a buffer and its size, which is replaced by the bytes written.
struct Log {
  char* buffer = nullptr;
  std::size_t capacity = 0;
  void** written = nullptr;

  void write(const std::string& words) const {
    std::size_t length = 0;
    if (buffer && capacity > 0) {
      length = words.copy(buffer, capacity - 1);
      buffer[length] = '\0';
    }
    if (written) *written = reinterpret_cast<void*>(length);
  }
};

struct Logs {
  Log error, info;
};

Logs read_options(const CUjit_option* options, void** values, unsigned count) {
  Logs logs;
  if (count > 0) {
    check_pointer(options, "jitOptions");
    check_pointer(values, "jitOptionsValues");
  }
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] > CU_JIT_SPLIT_COMPILE)
      refuse(CUDA_ERROR_INVALID_VALUE, "there is no JIT option " + std::to_string(static_cast<unsigned>(options[i])));
    const bool error = options[i] == CU_JIT_ERROR_LOG_BUFFER || options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES;
    Log& log = error ? logs.error : logs.info;
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER || options[i] == CU_JIT_INFO_LOG_BUFFER)
      log.buffer = static_cast<char*>(values[i]);
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES || options[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES) {
      // The documented form of the size: an unsigned int in the value itself.
      log.capacity = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(values[i]));
      log.written = &values[i];
    }
  }
  return logs;
}

// A plain target runs on its own and every later device, an 'f' target on the later ones of its family, an 'a' target
// on its own device alone (PTX ISA, ".target").
bool runs_on(std::string_view target, const Device& device) {
  if (!target.starts_with("sm_")) return false;
  int number = 0;
  const auto [end, error] = std::from_chars(target.data() + 3, target.data() + target.size(), number);
  if (error != std::errc()) return false;
  const std::string_view suffix(end, static_cast<std::size_t>(target.data() + target.size() - end));
  const int own = *device.find(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) * 10 +
                  *device.find(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  if (suffix == "a") return number == own;
  if (suffix == "f") return number <= own && number / 10 == own / 10;
  return suffix.empty() && number <= own;
}

// What `code` is, judged by its first bytes: nothing says how long it is.
void check_image(const void* code) {
  const auto* bytes = static_cast<const unsigned char*>(code);
  // strncmp stops at the end of a short text.
  const auto* text = static_cast<const char*>(code);
  if (std::strncmp(text, "\x7F" "ELF", 4) == 0 || std::strncmp(text, "\x50\xED\x55\xBA", 4) == 0)
    refuse(CUDA_ERROR_NO_BINARY_FOR_GPU, "the stand-in executes PTX text; this image is machine code");
  for (int i = 0; i < 4; ++i)
    if (!std::isprint(bytes[i]) && !std::isspace(bytes[i]))
      refuse(CUDA_ERROR_INVALID_IMAGE, "the image is neither PTX text nor a cubin");
}

std::shared_ptr<Kernel> make_kernel(const ptx::Module& module, const std::string& entry, const Device& device) {
  auto kernel = std::make_shared<Kernel>();
  kernel->program = ptx::bind(module, entry);
  const u32 usual = device.get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
  const u32 fixed = kernel->program->static_shared_bytes;
  // ptxas, which compiles PTX on hardware, refuses this.
  if (fixed > usual)
    refuse(CUDA_ERROR_INVALID_PTX, entry + " declares " + std::to_string(fixed) + " bytes of static shared memory; " +
                                       std::to_string(usual) + " are allowed");
  kernel->max_dynamic_shared = static_cast<int>(usual - fixed);
  return kernel;
}

// Without the lock: reading a large text takes a while.
std::shared_ptr<Library> load(const void* code, const Logs& logs) {
  check_pointer(code, "the image");
  check_image(code);
  const Device* device = Locked()->device;
  auto library = std::make_shared<Library>();
  logs.info.write("");
  try {
    const auto module = ptx::parse(static_cast<const char*>(code), "ptx");
    if (!runs_on(module->target, *device))
      refuse(CUDA_ERROR_NO_BINARY_FOR_GPU, "the text is for " + std::string(module->target) + ", the device is a " +
                                               std::string(device->name));
    for (const std::string& entry : ptx::entries(*module))
      library->kernels[entry] = make_kernel(*module, entry, *device);
  } catch (const Error& error) {
    logs.error.write(error.what());
    refuse(CUDA_ERROR_INVALID_PTX, error.what());
  } catch (const Refusal& refusal) {
    logs.error.write(refusal.words);
    throw;
  }
  logs.error.write("");
  return library;
}

}  // namespace

CUresult cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option* options, void** values, unsigned count,
                           CUlibraryOption* library_options, void** library_values, unsigned library_count) {
  return answer("cuLibraryLoadData", [&] {
    initialised();
    check_pointer(library, "library");
    const Logs logs = read_options(options, values, count);
    if (library_count > 0) {
      check_pointer(library_options, "libraryOptions");
      check_pointer(library_values, "libraryOptionValues");
    }
    for (unsigned i = 0; i < library_count; ++i)
      if (library_options[i] > CU_LIBRARY_BINARY_IS_PRESERVED)
        refuse(CUDA_ERROR_INVALID_VALUE,
               "there is no library option " + std::to_string(static_cast<unsigned>(library_options[i])));
    const auto loaded = load(code, logs);
    Locked state = initialised();
    for (auto& [name, kernel] : loaded->kernels) kernel->kernel = state->kernels.add(kernel, state->next_handle);
    *library = state->libraries.add(loaded, state->next_handle);
  });
}

CUresult cuLibraryUnload(CUlibrary library) {
  return answer("cuLibraryUnload", [&] {
    Locked state = initialised();
    const auto found = state->libraries.find(library);
    // Documented: INVALID_VALUE, not INVALID_HANDLE.
    if (!found)
      refuse(CUDA_ERROR_INVALID_VALUE, "library " + hexadecimal(reinterpret_cast<u64>(library)) + " does not exist");
    for (auto& [name, kernel] : found->kernels) {
      state->kernels.erase(kernel->kernel);
      if (kernel->function) state->functions.erase(kernel->function);
    }
    state->libraries.erase(library);
  });
}

CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  return answer("cuLibraryGetKernel", [&] {
    Locked state = initialised();
    check_pointer(kernel, "pKernel");
    check_pointer(name, "name");
    const auto found = state->libraries.find(library);
    if (!found)
      refuse(CUDA_ERROR_INVALID_HANDLE, "library " + hexadecimal(reinterpret_cast<u64>(library)) + " does not exist");
    const auto at = found->kernels.find(std::string_view(name));
    if (at == found->kernels.end()) refuse(CUDA_ERROR_NOT_FOUND, "the library has no kernel " + std::string(name));
    *kernel = at->second->kernel;
  });
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  return answer("cuModuleLoadData", [&] {
    initialised()->check_context();
    check_pointer(module, "module");
    const auto loaded = load(image, Logs());
    Locked state = initialised();
    state->check_context();
    for (auto& [name, kernel] : loaded->kernels) kernel->function = state->functions.add(kernel, state->next_handle);
    *module = state->modules.add(loaded, state->next_handle);
  });
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  return answer("cuModuleGetFunction", [&] {
    Locked state = initialised();
    check_pointer(function, "hfunc");
    check_pointer(name, "name");
    const auto found = state->modules.find(module);
    if (!found)
      refuse(CUDA_ERROR_INVALID_VALUE, "module " + hexadecimal(reinterpret_cast<u64>(module)) + " does not exist");
    const auto at = found->kernels.find(std::string_view(name));
    if (at == found->kernels.end()) refuse(CUDA_ERROR_NOT_FOUND, "the module has no function " + std::string(name));
    *function = at->second->function;
  });
}

CUresult cuModuleUnload(CUmodule module) {
  return answer("cuModuleUnload", [&] {
    Locked state = initialised();
    const auto found = state->modules.find(module);
    if (!found)
      refuse(CUDA_ERROR_INVALID_VALUE, "module " + hexadecimal(reinterpret_cast<u64>(module)) + " does not exist");
    for (auto& [name, kernel] : found->kernels) state->functions.erase(kernel->function);
    state->modules.erase(module);
  });
}

}  // namespace sim::driver
