#include "bpf_object.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>

#include <cerrno>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "errors.h"
#include "owned_fd.h"

namespace sidestep {
namespace {

constexpr std::size_t kVerifierLogBytes = 1 << 20;

struct ObjectCloser {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};

/** libbpf's own warnings of this thread's current load; the callback has no context argument. */
thread_local std::string* current_log = nullptr;

int Collect(libbpf_print_level level, const char* format, va_list args) {
  if (current_log == nullptr || level == LIBBPF_DEBUG) return 0;
  va_list copy;
  va_copy(copy, args);
  const int length = vsnprintf(nullptr, 0, format, copy);
  va_end(copy);
  if (length <= 0 || current_log->size() > kVerifierLogBytes) return 0;
  std::string line(static_cast<std::size_t>(length) + 1, '\0');
  vsnprintf(line.data(), line.size(), format, args);
  line.pop_back();
  *current_log += line;
  return length;
}

UniqueFd Duplicate(int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 3)); }

}  // namespace

Napi::Value LoadObject(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string path = info[0].As<Napi::String>();
  Napi::Object shared = info[1].As<Napi::Object>();
  const std::string log_path = info[2].As<Napi::String>();

  std::string log;
  current_log = &log;
  libbpf_set_print(Collect);
  const auto fail = [&](const std::string& call, int error) -> Napi::Value {
    current_log = nullptr;
    if (!log.empty()) std::ofstream(log_path, std::ios::app) << log;
    MakeError(env, Failure{error, call, log.empty() ? path : path + "; verifier log in " + log_path}).ThrowAsJavaScriptException();
    return env.Undefined();
  };

  std::unique_ptr<bpf_object, ObjectCloser> object(bpf_object__open_file(path.c_str(), nullptr));
  if (!object) return fail("bpf_object__open_file", errno);
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object.get()) {
    const char* name = bpf_map__name(map);
    if (!shared.Has(name)) continue;
    const int fd = OwnedFd::FdOf(shared.Get(name));
    if (fd < 0) return env.Undefined();
    if (const int error = bpf_map__reuse_fd(map, fd)) return fail(std::string("bpf_map__reuse_fd ") + name, -error);
  }
  if (const int error = bpf_object__load(object.get())) return fail("bpf_object__load", -error);
  current_log = nullptr;

  Napi::Object maps = Napi::Object::New(env);
  Napi::Object programs = Napi::Object::New(env);
  bpf_object__for_each_map(map, object.get()) {
    UniqueFd fd = Duplicate(bpf_map__fd(map));
    if (!fd.IsOpen()) return fail("dup", errno);
    maps.Set(bpf_map__name(map), OwnedFd::New(env, std::move(fd)));
  }
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object.get()) {
    UniqueFd fd = Duplicate(bpf_program__fd(program));
    if (!fd.IsOpen()) return fail("dup", errno);
    programs.Set(bpf_program__name(program), OwnedFd::New(env, std::move(fd)));
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("maps", maps);
  result.Set("programs", programs);
  return result;
}

}  // namespace sidestep
