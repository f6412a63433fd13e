#include "bpf_object.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
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

/** Collects into `log` while it lives: no later warning may meet a string that is gone. */
class LogScope {
 public:
  explicit LogScope(std::string* log) {
    current_log = log;
    libbpf_set_print(Collect);
  }
  ~LogScope() { current_log = nullptr; }
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;
};

/** What a load gives, before JavaScript owns it: closed here if a later step fails. */
using NamedFds = std::vector<std::pair<std::string, UniqueFd>>;

/** libbpf's own errors have numbers above the kernel's, which nobody else can name. */
std::string LibbpfReason(int error) {
  std::array<char, 128> text{};
  libbpf_strerror(error, text.data(), text.size());
  return text.data();
}

bool Keep(const char* name, int fd, NamedFds* out) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy.IsOpen()) return false;
  out->emplace_back(name, std::move(copy));
  return true;
}

Napi::Object ToObject(Napi::Env env, NamedFds fds) {
  Napi::Object result = Napi::Object::New(env);
  for (auto& [name, fd] : fds) result.Set(name, OwnedFd::New(env, std::move(fd)));
  return result;
}

/** Gives the object's maps those of `shared` that have their names; false with a pending exception, or a failure. */
bool ReuseMaps(bpf_object* object, const Napi::Object& shared, Failure* failure) {
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    const char* name = bpf_map__name(map);
    Napi::Value value;
    if (!GetField(shared, name, &value)) return false;
    if (value.IsUndefined()) continue;
    const int fd = OwnedFd::FdOf(value);
    if (fd < 0) return false;
    if (const int error = bpf_map__reuse_fd(map, fd)) {
      *failure = Failure{-error, "bpf_map__reuse_fd", name};
      return false;
    }
  }
  return true;
}

bool KeepAll(bpf_object* object, NamedFds* maps, NamedFds* programs) {
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    if (!Keep(bpf_map__name(map), bpf_map__fd(map), maps)) return false;
  }
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    if (!Keep(bpf_program__name(program), bpf_program__fd(program), programs)) return false;
  }
  return true;
}

}  // namespace

Napi::Value LoadObject(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path;
  std::string log_path;
  Napi::Object shared;
  if (!ReadString(info[0], "path", &path) || !ReadObject(info[1], "maps", &shared) || !ReadString(info[2], "verifierLogPath", &log_path))
    return env.Undefined();

  std::string log;
  const LogScope scope(&log);
  const auto fail = [&](Failure failure) -> Napi::Value {
    if (!log.empty()) std::ofstream(log_path, std::ios::app) << log;
    std::string where = failure.detail.empty() ? path : path + ": " + failure.detail;
    if (failure.error >= __LIBBPF_ERRNO__START) where += ": " + LibbpfReason(failure.error);
    failure.detail = log.empty() ? where : where + "; verifier log in " + log_path;
    Throw(env, failure);
    return env.Undefined();
  };

  std::unique_ptr<bpf_object, ObjectCloser> object(bpf_object__open_file(path.c_str(), nullptr));
  if (!object) return fail(LastFailure("bpf_object__open_file"));
  Failure failure;
  if (!ReuseMaps(object.get(), shared, &failure)) return failure ? fail(failure) : env.Undefined();
  if (const int error = bpf_object__load(object.get())) return fail(Failure{-error, "bpf_object__load", {}});
  NamedFds maps;
  NamedFds programs;
  if (!KeepAll(object.get(), &maps, &programs)) return fail(LastFailure("fcntl F_DUPFD_CLOEXEC"));

  Napi::Object result = Napi::Object::New(env);
  result.Set("maps", ToObject(env, std::move(maps)));
  result.Set("programs", ToObject(env, std::move(programs)));
  return result;
}

}  // namespace sidestep
