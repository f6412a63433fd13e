#include "socket_jobs.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

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
  UniqueFd storage_map;
  std::vector<std::uint8_t> storage_value;
};

std::optional<Address> ReadAddress(const Napi::Value& value, bool dual_stack) {
  if (!value.IsObject()) return std::nullopt;
  Napi::Object object = value.As<Napi::Object>();
  Napi::Value ip = object.Get("ip");
  if (!ip.IsTypedArray() || ip.As<Napi::Uint8Array>().ByteLength() != 16) return std::nullopt;
  return MakeAddress(ip.As<Napi::Uint8Array>().Data(), static_cast<std::uint16_t>(object.Get("port").As<Napi::Number>().Uint32Value()), dual_stack);
}

std::uint32_t ReadNumber(const Napi::Object& object, const char* name, std::uint32_t fallback) {
  Napi::Value value = object.Get(name);
  return value.IsNumber() ? value.As<Napi::Number>().Uint32Value() : fallback;
}

bool ReadOptions(const Napi::Value& value, SocketOptions* options) {
  Napi::Env env = value.Env();
  if (!value.IsObject()) {
    Napi::TypeError::New(env, "expected socket options").ThrowAsJavaScriptException();
    return false;
  }
  Napi::Object object = value.As<Napi::Object>();
  options->dual_stack = object.Get("dualStack").ToBoolean();
  const std::optional<Address> address = ReadAddress(object.Get("address"), options->dual_stack);
  if (!address) {
    Napi::TypeError::New(env, "address: expected {ip: 16 bytes, port}").ThrowAsJavaScriptException();
    return false;
  }
  options->address = *address;
  options->source = ReadAddress(object.Get("source"), false);
  options->transparent = object.Get("transparent").ToBoolean();
  options->reuse_port = object.Get("reusePort").ToBoolean();
  options->mark = ReadNumber(object, "mark", 0);
  options->port_range = ReadNumber(object, "portRange", 0);
  options->backlog = static_cast<int>(ReadNumber(object, "backlog", 4096));
  Napi::Value map = object.Get("storageMap");
  if (map.IsObject()) {
    const int fd = OwnedFd::FdOf(map);
    if (fd < 0) return false;
    options->storage_map.Reset(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    Napi::Uint8Array bytes = object.Get("storageValue").As<Napi::Uint8Array>();
    options->storage_value.assign(bytes.Data(), bytes.Data() + bytes.ByteLength());
  }
  return true;
}

bool SetOption(int fd, int level, int option, int value, const char* name, Failure* failure) {
  if (setsockopt(fd, level, option, &value, sizeof(value)) == 0) return true;
  *failure = LastFailure(std::string("setsockopt ") + name);
  return false;
}

/** A configured socket, not yet bound. An open descriptor or a failure. */
UniqueFd MakeSocket(int type, const SocketOptions& options, Failure* failure) {
  UniqueFd fd(socket(options.address.Family(), type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.IsOpen()) {
    *failure = LastFailure("socket");
    return {};
  }
  const int raw = fd.Get();
  const bool is_ip6 = options.address.Family() == AF_INET6;
  if (options.storage_map.IsOpen()) {
    if (bpf_map_update_elem(options.storage_map.Get(), &raw, options.storage_value.data(), BPF_ANY) != 0) {
      *failure = LastFailure("bpf_map_update_elem", "socket storage");
      return {};
    }
  }
  if (type == SOCK_STREAM && !SetOption(raw, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY", failure)) return {};
  if (is_ip6 && !SetOption(raw, IPPROTO_IPV6, IPV6_V6ONLY, options.dual_stack ? 0 : 1, "IPV6_V6ONLY", failure)) return {};
  if (options.transparent) {
    const bool done = is_ip6 ? SetOption(raw, IPPROTO_IPV6, IPV6_TRANSPARENT, 1, "IPV6_TRANSPARENT", failure)
                             : SetOption(raw, IPPROTO_IP, IP_TRANSPARENT, 1, "IP_TRANSPARENT", failure);
    if (!done) return {};
  }
  if (options.mark != 0 && !SetOption(raw, SOL_SOCKET, SO_MARK, static_cast<int>(options.mark), "SO_MARK", failure)) return {};
  if (options.reuse_port && !SetOption(raw, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT", failure)) return {};
  return fd;
}

class SocketJob : public NetnsJob {
 public:
  SocketJob(Napi::Env env, SocketOptions options) : NetnsJob(env), options_(std::move(options)) {}
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
    } while (--tries > 0 && (failure_.error == EADDRINUSE || failure_.error == EADDRNOTAVAIL));
  }

  void Finish() override {
    int error = 0;
    socklen_t length = sizeof(error);
    if (getsockopt(fd_.Get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
    if (error != 0) failure_ = Failure{error, "connect", {}};
  }

 private:
  /** With every second port of the range taken, this many tries fail once in 10^19. */
  static constexpr int kPortTries = 64;

  void Try() {
    fd_ = MakeSocket(SOCK_STREAM, options_, &failure_);
    if (failure_) return;
    if (options_.source && !BindSource()) return;
    if (connect(fd_.Get(), options_.address.Get(), options_.address.length) == 0) return;
    if (errno == EINPROGRESS) {
      pending_fd_ = fd_.Get();
    } else {
      failure_ = LastFailure("connect");
    }
  }

  /** One source address and port may serve many destinations: connect judges the whole four-tuple. A port from the given
   *  range is chosen here, because IP_LOCAL_PORT_RANGE only narrows the namespace's own range and ignores one outside. */
  bool BindSource() {
    const int fd = fd_.Get();
    Address source = *options_.source;
    if (options_.port_range == 0) {
      if (!SetOption(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1, "IP_BIND_ADDRESS_NO_PORT", &failure_)) return false;
    } else {
      if (!SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR", &failure_)) return false;
      const std::uint16_t port = htons(RandomPort());
      // sin_port and sin6_port lie at the same place.
      reinterpret_cast<sockaddr_in*>(&source.storage)->sin_port = port;
    }
    if (bind(fd, source.Get(), source.length) == 0) return true;
    failure_ = LastFailure("bind");
    return false;
  }

  /** Random, so that a stranger cannot foresee the four-tuple of the next delivery. */
  [[nodiscard]] std::uint16_t RandomPort() const {
    const std::uint32_t first = options_.port_range & 0xffffU;
    const std::uint32_t last = options_.port_range >> 16U;
    std::uint32_t random = 0;
    // The kernel's pool is ready long before pods are; without it the first port serves as well.
    (void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
    return static_cast<std::uint16_t>(first + random % (last - first + 1));
  }
};

class BindJob : public SocketJob {
 public:
  BindJob(Napi::Env env, int type, SocketOptions options) : SocketJob(env, std::move(options)), type_(type) {}

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
  if (!ReadOptions(info[1], &options)) return env.Undefined();
  const std::uint32_t timeout = ReadNumber(info[1].As<Napi::Object>(), "timeoutMs", 10'000);
  auto job = std::make_unique<Job>(env, args..., std::move(options));
  job->timeout_ = std::chrono::milliseconds(timeout);
  NetnsThread& thread = NetnsThread::Of(env);
  if (env.IsExceptionPending()) return env.Undefined();
  return thread.Post(info[0], std::move(job));
}

}  // namespace

Napi::Value ConnectTcp(const Napi::CallbackInfo& info) { return PostSocketJob<ConnectJob>(info); }

Napi::Value ListenTcp(const Napi::CallbackInfo& info) { return PostSocketJob<BindJob>(info, SOCK_STREAM); }

Napi::Value BindUdp(const Napi::CallbackInfo& info) { return PostSocketJob<BindJob>(info, SOCK_DGRAM); }

Napi::Value TcpInfo(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::uint8_t bytes[512];
  socklen_t length = sizeof(bytes);
  if (getsockopt(info[0].As<Napi::Number>().Int32Value(), IPPROTO_TCP, TCP_INFO, bytes, &length) == 0)
    return Napi::Buffer<std::uint8_t>::Copy(env, bytes, length);
  MakeError(env, LastFailure("getsockopt TCP_INFO")).ThrowAsJavaScriptException();
  return env.Undefined();
}

}  // namespace sidestep
