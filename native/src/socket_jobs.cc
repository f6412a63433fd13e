#include "socket_jobs.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "bpf_map.h"
#include "netns_thread.h"
#include "owned_fd.h"

namespace sidestep {
namespace {

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;

  [[nodiscard]] int Family() const { return storage.ss_family; }
  [[nodiscard]] const sockaddr* Get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

/** From 16 bytes in network order (IPv4 as ::ffff:a.b.c.d) and a port in host order. */
Address MakeAddress(const std::uint8_t* ip, std::uint16_t port, bool dual_stack) {
  static constexpr std::uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  Address address;
  if (!dual_stack && std::memcmp(ip, kMapped, sizeof(kMapped)) == 0) {
    auto* in = reinterpret_cast<sockaddr_in*>(&address.storage);
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    std::memcpy(&in->sin_addr, ip + 12, 4);
    address.length = sizeof(*in);
  } else {
    auto* in = reinterpret_cast<sockaddr_in6*>(&address.storage);
    in->sin6_family = AF_INET6;
    in->sin6_port = htons(port);
    std::memcpy(&in->sin6_addr, ip, 16);
    address.length = sizeof(*in);
  }
  return address;
}

/** The kernel takes no longer silence. */
constexpr std::uint32_t kMostKeepAliveSeconds = 32'767;

/** All that can be asked of a socket; what is absent is not done. */
struct SocketOptions {
  Address address;
  std::optional<Address> source;
  bool dual_stack = false;
  bool transparent = false;
  bool reuse_port = false;
  std::uint32_t mark = 0;
  std::uint32_t port_range = 0;  // high 16 bits: last, low 16 bits: first source port; 0 leaves the choice to the kernel
  int backlog = 4096;
  std::uint32_t keep_alive_seconds = 0;  // of silence until the peer is asked; 0 for never
  UniqueFd storage_map;
  std::vector<std::uint8_t> storage_value;
};

bool ReadAddress(const Napi::Value& value, const char* name, bool dual_stack, Address* out) {
  Napi::Object object;
  Napi::Value ip;
  Napi::Value port;
  std::uint32_t number = 0;
  Bytes bytes;
  if (!ReadObject(value, name, &object)) return false;
  if (!GetField(object, "port", &port) || !ReadUint32(port, "port", &number, UINT16_MAX)) return false;
  if (!GetField(object, "ip", &ip) || !ReadBytes(ip, "ip", &bytes)) return false;
  if (bytes.size() != 16) return ThrowExpected(value.Env(), "ip", "16 bytes");
  *out = MakeAddress(bytes.data(), static_cast<std::uint16_t>(number), dual_stack);
  return true;
}

/** A socket without its mark would be captured again or let in nowhere: a mark that cannot be set is an error. */
bool ReadStorage(const Napi::Object& object, SocketOptions* options) {
  Napi::Env env = object.Env();
  Napi::Value map;
  Napi::Value value;
  Bytes bytes;
  if (!GetField(object, "storageMap", &map)) return false;
  if (map.IsUndefined()) return true;
  if (!GetField(object, "storageValue", &value) || !ReadBytes(value, "storageValue", &bytes)) return false;
  const MapShape* shape = MapShapeOf(map);
  if (shape == nullptr) return false;
  // The kernel reads a key and a value of the map's sizes, whatever we hand it.
  if (shape->type != BPF_MAP_TYPE_SK_STORAGE || bytes.size() != shape->value_bytes) {
    Throw(env, Failure{EINVAL, "socket storage", shape->name + " is no socket storage with values of that size"});
    return false;
  }
  options->storage_map = OwnedFd::DuplicateOf(map);
  options->storage_value.assign(bytes.begin(), bytes.end());
  return options->storage_map.IsOpen();
}

bool ReadOptions(const Napi::Value& value, SocketOptions* options, std::uint32_t* timeout_ms) {
  Napi::Object object;
  Napi::Value address;
  Napi::Value source;
  std::uint32_t backlog = 4096;
  const bool is_right =
      ReadObject(value, "options", &object) && ReadOptionalBool(object, "dualStack", &options->dual_stack) &&
      GetField(object, "address", &address) && ReadAddress(address, "address", options->dual_stack, &options->address) &&
      ReadOptionalBool(object, "transparent", &options->transparent) && ReadOptionalBool(object, "reusePort", &options->reuse_port) &&
      ReadOptionalUint32(object, "mark", &options->mark) && ReadOptionalUint32(object, "portRange", &options->port_range) &&
      ReadOptionalUint32(object, "keepAliveSeconds", &options->keep_alive_seconds, kMostKeepAliveSeconds) &&
      ReadOptionalUint32(object, "backlog", &backlog, INT32_MAX) && ReadOptionalUint32(object, "timeoutMs", timeout_ms) &&
      GetField(object, "source", &source) && ReadStorage(object, options);
  if (!is_right) return false;
  options->backlog = static_cast<int>(backlog);
  if (options->port_range != 0) {
    const std::uint32_t first = options->port_range & 0xffffU;
    const bool is_range = first > 0 && first <= options->port_range >> 16U;
    if (!is_range || source.IsUndefined()) return ThrowExpected(value.Env(), "portRange", "a first and a last port, with a source");
  }
  if (source.IsUndefined()) return true;
  return ReadAddress(source, "source", options->dual_stack, &options->source.emplace());
}

bool SetOption(int fd, int level, int option, int value, const char* name, Failure* failure) {
  if (setsockopt(fd, level, option, &value, sizeof(value)) == 0) return true;
  *failure = LastFailure(std::string("setsockopt ") + name);
  return false;
}

/** Asks a silent peer whether it is still there, and gives it up after a few more questions. */
bool SetKeepAlive(int fd, int seconds, Failure* failure) {
  static constexpr int kMostBetweenSeconds = 15;
  static constexpr int kQuestions = 4;
  return SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE", failure) &&
         SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds, "TCP_KEEPIDLE", failure) &&
         SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, std::min(seconds, kMostBetweenSeconds), "TCP_KEEPINTVL", failure) &&
         SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, kQuestions, "TCP_KEEPCNT", failure);
}

/** What `options` ask of a fresh socket, before it is bound; false with a failure. */
bool Configure(int raw, int type, const SocketOptions& options, Failure* failure) {
  const bool is_ip6 = options.address.Family() == AF_INET6;
  if (options.storage_map.IsOpen()) {
    if (bpf_map_update_elem(options.storage_map.Get(), &raw, options.storage_value.data(), BPF_ANY) != 0) {
      *failure = LastFailure("bpf_map_update_elem", "socket storage");
      return false;
    }
  }
  if (type == SOCK_STREAM && !SetOption(raw, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY", failure)) return false;
  const int silence = static_cast<int>(options.keep_alive_seconds);
  if (type == SOCK_STREAM && silence > 0 && !SetKeepAlive(raw, silence, failure)) return false;
  if (is_ip6 && !SetOption(raw, IPPROTO_IPV6, IPV6_V6ONLY, options.dual_stack ? 0 : 1, "IPV6_V6ONLY", failure)) return false;
  if (options.transparent) {
    const bool done = is_ip6 ? SetOption(raw, IPPROTO_IPV6, IPV6_TRANSPARENT, 1, "IPV6_TRANSPARENT", failure)
                             : SetOption(raw, IPPROTO_IP, IP_TRANSPARENT, 1, "IP_TRANSPARENT", failure);
    if (!done) return false;
  }
  if (options.mark != 0 && !SetOption(raw, SOL_SOCKET, SO_MARK, static_cast<int>(options.mark), "SO_MARK", failure)) return false;
  return !options.reuse_port || SetOption(raw, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT", failure);
}

/** A configured socket, not yet bound. An open descriptor or a failure. */
UniqueFd MakeSocket(int type, const SocketOptions& options, Failure* failure) {
  UniqueFd fd(socket(options.address.Family(), type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.IsOpen()) {
    *failure = LastFailure("socket");
    return {};
  }
  if (!Configure(fd.Get(), type, options, failure)) return {};
  return fd;
}

/** Random, so that a stranger cannot foresee the four-tuple of the next delivery. */
std::uint16_t RandomPort(std::uint32_t port_range) {
  const std::uint32_t first = port_range & 0xffffU;
  const std::uint32_t last = port_range >> 16U;
  std::uint32_t random = 0;
  // The kernel's pool is ready long before pods are; without it the first port serves as well.
  (void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
  return static_cast<std::uint16_t>(first + random % (last - first + 1));
}

/** One source address and port may serve many destinations: connect judges the whole four-tuple. A port from the given
 *  range is chosen here, because IP_LOCAL_PORT_RANGE only narrows the namespace's own range and ignores one outside. */
bool BindSource(int fd, const SocketOptions& options, Failure* failure) {
  if (!options.source) return true;
  Address source = *options.source;
  if (options.port_range == 0) {
    if (!SetOption(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1, "IP_BIND_ADDRESS_NO_PORT", failure)) return false;
  } else {
    if (!SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR", failure)) return false;
    // sin_port and sin6_port lie at the same place.
    reinterpret_cast<sockaddr_in*>(&source.storage)->sin_port = htons(RandomPort(options.port_range));
  }
  if (bind(fd, source.Get(), source.length) == 0) return true;
  *failure = LastFailure("bind");
  return false;
}

/** Another socket may find another port. */
bool IsTakenPort(const Failure& failure) { return failure.error == EADDRINUSE || failure.error == EADDRNOTAVAIL; }

/** What connecting `fd` came to; a failure, or none. */
Failure ConnectError(int fd) {
  int error = 0;
  socklen_t length = sizeof(error);
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
  return error == 0 ? Failure{} : Failure{error, "connect", {}};
}

class SocketJob : public NetnsJob {
 public:
  explicit SocketJob(SocketOptions options) : options_(std::move(options)) {}
  Napi::Value Result(Napi::Env env) override { return OwnedFd::New(env, std::move(fd_)); }

 protected:
  SocketOptions options_;
  UniqueFd fd_;
};

class ConnectJob : public SocketJob {
 public:
  using SocketJob::SocketJob;

  void Run() override {
    int tries = options_.source && options_.port_range != 0 ? kPortTries : 1;
    do {
      failure_ = {};
      Try();
    } while (--tries > 0 && IsTakenPort(failure_));
  }

  void Finish() override { failure_ = ConnectError(fd_.Get()); }

 private:
  /** With every second port of the range taken, this many tries fail once in 10^19. */
  static constexpr int kPortTries = 64;

  void Try() {
    fd_ = MakeSocket(SOCK_STREAM, options_, &failure_);
    if (failure_) return;
    if (!BindSource(fd_.Get(), options_, &failure_)) return;
    if (connect(fd_.Get(), options_.address.Get(), options_.address.length) == 0) return;
    if (errno == EINPROGRESS) {
      pending_fd_ = fd_.Get();
    } else {
      failure_ = LastFailure("connect");
    }
  }
};

/** Sockets that are not connected yet: only making one needs the namespace, so the JavaScript thread can do the rest. */
class MakeSocketsJob : public NetnsJob {
 public:
  MakeSocketsJob(int family, std::uint32_t count) : family_(family), count_(count) {}

  void Run() override {
    while (made_.size() < count_) {
      UniqueFd fd(socket(family_, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      if (!fd.IsOpen()) {
        if (made_.empty()) failure_ = LastFailure("socket");
        return;
      }
      made_.push_back(std::move(fd));
    }
  }

  Napi::Value Result(Napi::Env env) override {
    Napi::Array result = Napi::Array::New(env, made_.size());
    for (std::uint32_t i = 0; i < made_.size(); i++) result.Set(i, OwnedFd::New(env, std::move(made_[i])));
    return result;
  }

 private:
  int family_;
  std::uint32_t count_;
  std::vector<UniqueFd> made_;
};

/** Waits for a connect that is under way; needs no namespace. */
class AwaitConnectJob : public NetnsJob {
 public:
  explicit AwaitConnectJob(UniqueFd fd) : fd_(std::move(fd)) {}
  void Run() override { pending_fd_ = fd_.Get(); }
  void Finish() override { failure_ = ConnectError(fd_.Get()); }
  Napi::Value Result(Napi::Env env) override { return OwnedFd::New(env, std::move(fd_)); }

 private:
  UniqueFd fd_;
};

class BindJob : public SocketJob {
 public:
  BindJob(int type, SocketOptions options) : SocketJob(std::move(options)), type_(type) {}

  void Run() override {
    fd_ = MakeSocket(type_, options_, &failure_);
    if (failure_) return;
    const int fd = fd_.Get();
    if (type_ == SOCK_STREAM && !SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR", &failure_)) return;
    if (bind(fd, options_.address.Get(), options_.address.length) != 0) {
      failure_ = LastFailure("bind");
    } else if (type_ == SOCK_STREAM && listen(fd, options_.backlog) != 0) {
      failure_ = LastFailure("listen");
    }
  }

 private:
  int type_;
};

template <typename Job, typename... Args>
Napi::Value PostSocketJob(const Napi::CallbackInfo& info, Args... args) {
  Napi::Env env = info.Env();
  SocketOptions options;
  std::uint32_t timeout_ms = 10'000;
  if (!ReadOptions(info[1], &options, &timeout_ms)) return env.Undefined();
  auto job = std::make_unique<Job>(args..., std::move(options));
  job->timeout_ = std::chrono::milliseconds(timeout_ms);
  NetnsThread* thread = NetnsThread::Of(env);
  if (thread == nullptr) return env.Undefined();
  return thread->Post(info[0], std::move(job));
}

}  // namespace

Napi::Value ConnectTcp(const Napi::CallbackInfo& info) { return PostSocketJob<ConnectJob>(info); }

Napi::Value MakeTcpSockets(const Napi::CallbackInfo& info) {
  static constexpr std::uint32_t kMost = 256;
  std::uint32_t count = 0;
  if (!ReadUint32(info[2], "count", &count, kMost)) return info.Env().Undefined();
  NetnsThread* thread = NetnsThread::Of(info.Env());
  if (thread == nullptr) return info.Env().Undefined();
  const int family = info[1].ToBoolean().Value() ? AF_INET6 : AF_INET;
  return thread->Post(info[0], std::make_unique<MakeSocketsJob>(family, count));
}

Napi::Value ConnectMade(const Napi::CallbackInfo& info) {
  enum Outcome : std::uint8_t { kConnected, kUnderWay, kPortTaken };
  Napi::Env env = info.Env();
  SocketOptions options;
  std::uint32_t timeout_ms = 0;
  const int fd = OwnedFd::FdOf(info[0]);
  if (fd < 0 || !ReadOptions(info[1], &options, &timeout_ms)) return env.Undefined();
  Failure failure;
  if (Configure(fd, SOCK_STREAM, options, &failure) && BindSource(fd, options, &failure)) {
    if (connect(fd, options.address.Get(), options.address.length) == 0) return Napi::Number::New(env, kConnected);
    if (errno != EINPROGRESS) {
      failure = LastFailure("connect");
    } else {
      // Over a loopback the answer is there already; the call could not see it, since it held the socket's lock.
      pollfd entry{.fd = fd, .events = POLLOUT, .revents = 0};
      if (poll(&entry, 1, 0) <= 0) return Napi::Number::New(env, kUnderWay);
      failure = ConnectError(fd);
    }
  }
  if (!failure) return Napi::Number::New(env, kConnected);
  if (options.port_range != 0 && IsTakenPort(failure)) return Napi::Number::New(env, kPortTaken);
  Throw(env, failure);
  return env.Undefined();
}

Napi::Value AwaitConnect(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::uint32_t timeout_ms = 0;
  if (!ReadUint32(info[1], "timeoutMs", &timeout_ms)) return env.Undefined();
  UniqueFd fd = OwnedFd::DuplicateOf(info[0]);
  NetnsThread* thread = fd.IsOpen() ? NetnsThread::Of(env) : nullptr;
  if (thread == nullptr) return env.Undefined();
  auto job = std::make_unique<AwaitConnectJob>(std::move(fd));
  job->timeout_ = std::chrono::milliseconds(timeout_ms);
  return thread->Post(std::move(job));
}

Napi::Value ListenTcp(const Napi::CallbackInfo& info) { return PostSocketJob<BindJob>(info, SOCK_STREAM); }

Napi::Value BindUdp(const Napi::CallbackInfo& info) { return PostSocketJob<BindJob>(info, SOCK_DGRAM); }

Napi::Value TcpInfo(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::uint32_t fd = 0;
  if (!ReadUint32(info[0], "fd", &fd, INT32_MAX)) return env.Undefined();
  std::uint8_t bytes[512];
  socklen_t length = sizeof(bytes);
  if (getsockopt(static_cast<int>(fd), IPPROTO_TCP, TCP_INFO, bytes, &length) == 0)
    return Napi::Buffer<std::uint8_t>::Copy(env, bytes, length);
  Throw(env, LastFailure("getsockopt TCP_INFO"));
  return env.Undefined();
}

Napi::Value TcpInfoInto(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::uint32_t fd = 0;
  Bytes into;
  if (!ReadUint32(info[0], "fd", &fd, INT32_MAX) || !ReadBytes(info[1], "into", &into)) return env.Undefined();
  auto length = static_cast<socklen_t>(std::min<std::size_t>(into.size(), INT32_MAX));
  if (getsockopt(static_cast<int>(fd), IPPROTO_TCP, TCP_INFO, into.data(), &length) == 0) return Napi::Number::New(env, length);
  Throw(env, LastFailure("getsockopt TCP_INFO"));
  return env.Undefined();
}

}  // namespace sidestep
