#include "unix_socket.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "arguments.h"
#include "errors.h"
#include "owned_fd.h"
#include "wrapped.h"

namespace sidestep {
namespace {

/** The kernel passes no more with one message (SCM_MAX_FD). */
constexpr std::uint32_t kMostFds = 253;
constexpr std::uint32_t kMostBytes = 1U << 20U;

/** A non-blocking socket and the address of a path, or an exception. */
UniqueFd MakeUnixSocket(const Napi::CallbackInfo& info, sockaddr_un* address, std::string* path) {
  Napi::Env env = info.Env();
  if (!ReadString(info[0], "path", path)) return {};
  if (!info[1].IsBoolean()) {
    ThrowExpected(env, "isSeqpacket", "a boolean");
    return {};
  }
  // An empty path would bind an address that the kernel chooses.
  if (path->empty() || path->size() >= sizeof(address->sun_path)) {
    Throw(env, Failure{ENAMETOOLONG, "unix socket", *path});
    return {};
  }
  address->sun_family = AF_UNIX;
  std::memcpy(address->sun_path, path->c_str(), path->size() + 1);
  const int type = info[1].As<Napi::Boolean>() ? SOCK_SEQPACKET : SOCK_STREAM;
  UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.IsOpen()) Throw(env, LastFailure("socket"));
  return fd;
}

/** Takes over every descriptor that came with the message. */
std::vector<UniqueFd> ReceivedFds(msghdr* message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* control = CMSG_FIRSTHDR(message); control != nullptr; control = CMSG_NXTHDR(message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; i++) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(fd));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

/** False with a pending exception, as OwnedFd::Of. */
bool ReadFds(const Napi::Value& value, std::vector<int>* out) {
  Napi::Env env = value.Env();
  if (!value.IsArray()) return ThrowExpected(env, "fds", "an array of OwnedFd");
  Napi::Array array = value.As<Napi::Array>();
  if (array.Length() > kMostFds) return ThrowExpected(env, "fds", "at most " + std::to_string(kMostFds));
  for (std::uint32_t i = 0; i < array.Length(); i++) {
    const int fd = OwnedFd::FdOf(array.Get(i));
    if (fd < 0) return false;
    out->push_back(fd);
  }
  return true;
}

}  // namespace

Napi::Value UnixConnect(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  sockaddr_un address{};
  std::string path;
  UniqueFd fd = MakeUnixSocket(info, &address, &path);
  if (!fd.IsOpen()) return env.Undefined();
  // Connected at once, or the server's queue is full (EAGAIN).
  if (connect(fd.Get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return OwnedFd::New(env, std::move(fd));
  Throw(env, LastFailure("connect", path));
  return env.Undefined();
}

Napi::Value UnixListen(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  sockaddr_un address{};
  std::string path;
  std::uint32_t mode = 0;
  UniqueFd fd = MakeUnixSocket(info, &address, &path);
  if (!fd.IsOpen() || !ReadUint32(info[2], "mode", &mode, 0777)) return env.Undefined();
  // The file is made with the mode of the socket: there is no moment at which others could connect.
  if (fchmod(fd.Get(), mode) != 0) {
    Throw(env, LastFailure("fchmod", path));
  } else if (bind(fd.Get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    Throw(env, LastFailure("bind", path));
  } else if (listen(fd.Get(), 128) != 0) {
    Throw(env, LastFailure("listen", path));
  } else {
    return OwnedFd::New(env, std::move(fd));
  }
  return env.Undefined();
}

Napi::Value Duplicate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  UniqueFd copy;
  if (info[0].IsNumber()) {
    std::uint32_t fd = 0;
    if (!ReadUint32(info[0], "fd", &fd, INT32_MAX)) return env.Undefined();
    copy.Reset(fcntl(static_cast<int>(fd), F_DUPFD_CLOEXEC, 3));
    if (!copy.IsOpen()) Throw(env, LastFailure("fcntl F_DUPFD_CLOEXEC"));
  } else {
    copy = OwnedFd::DuplicateOf(info[0]);
  }
  return copy.IsOpen() ? OwnedFd::New(env, std::move(copy)) : env.Undefined();
}

void UnixSocket::Init(Napi::Env env, Napi::Object exports) {
  exports.Set("UnixSocket",
              DefineClass(env, "UnixSocket",
                          {InstanceMethod<&UnixSocket::Arm>("arm"), InstanceMethod<&UnixSocket::Accept>("accept"),
                           InstanceMethod<&UnixSocket::Send>("send"), InstanceMethod<&UnixSocket::Receive>("receive"),
                           InstanceMethod<&UnixSocket::Peer>("peer"), InstanceMethod<&UnixSocket::Close>("close")}));
}

UnixSocket::UnixSocket(const Napi::CallbackInfo& info) : Napi::ObjectWrap<UnixSocket>(info) {
  Napi::Env env = info.Env();
  if (!IsWrapped(env, this)) return;
  if (!info[1].IsFunction()) {
    ThrowExpected(env, "onReady", "a function");
    return;
  }
  OwnedFd* owned = OwnedFd::Of(info[0]);
  if (owned == nullptr) return;
  const std::shared_ptr<Poller> poller = Poller::Of(env);
  if (!poller) return;
  on_ready_ = Napi::Persistent(info[1].As<Napi::Function>());
  id_ = poller->Add(owned->Get(), this);
  if (id_ == 0) {
    Throw(env, LastFailure("epoll_ctl"));
    return;
  }
  poller_ = poller;
  fd_ = owned->Take();
  Ref();
}

UnixSocket::~UnixSocket() { Stop(); }

void UnixSocket::Stop() {
  if (const std::shared_ptr<Poller> poller = poller_.lock()) poller->Remove(id_, fd_.Get());
  poller_.reset();
  fd_.Reset();
}

void UnixSocket::Close(const Napi::CallbackInfo&) {
  if (!fd_.IsOpen()) return;
  Stop();
  on_ready_.Reset();
  Unref();
}

bool UnixSocket::IsOpen(Napi::Env env) const {
  if (!fd_.IsOpen()) Throw(env, Failure{EBADF, "unix socket", "used after close"});
  return fd_.IsOpen();
}

void UnixSocket::OnReady(Napi::Env env, std::uint32_t) {
  const Napi::HandleScope scope(env);
  on_ready_.Call({});
}

void UnixSocket::Arm(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!IsOpen(env)) return;
  const std::uint32_t events = EPOLLIN | EPOLLRDHUP | (info[0].ToBoolean() ? EPOLLOUT : 0U);
  const std::shared_ptr<Poller> poller = poller_.lock();
  if (poller && !poller->Arm(id_, fd_.Get(), events)) Throw(env, LastFailure("epoll_ctl"));
}

Napi::Value UnixSocket::Accept(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!IsOpen(env)) return env.Undefined();
  UniqueFd fd(accept4(fd_.Get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd.IsOpen()) return OwnedFd::New(env, std::move(fd));
  if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) Throw(env, LastFailure("accept4"));
  return env.Undefined();
}

Napi::Value UnixSocket::Send(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Bytes bytes;
  std::uint32_t offset = 0;
  std::vector<int> fds;
  if (!IsOpen(env) || !ReadBytes(info[0], "bytes", &bytes)) return env.Undefined();
  const auto most = static_cast<std::uint32_t>(std::min<std::size_t>(bytes.size(), UINT32_MAX));
  if (!ReadUint32(info[1], "offset", &offset, most) || !ReadFds(info[2], &fds)) return env.Undefined();

  iovec part{bytes.data() + offset, bytes.size() - offset};
  alignas(cmsghdr) std::array<std::uint8_t, CMSG_SPACE(sizeof(int) * kMostFds)> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    const std::size_t size = fds.size() * sizeof(int);
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(size);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    std::memcpy(CMSG_DATA(header), fds.data(), size);
  }
  ssize_t sent = -1;
  do sent = sendmsg(fd_.Get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno != EAGAIN) {
    Throw(env, LastFailure("sendmsg"));
    return env.Undefined();
  }
  return Napi::Number::New(env, static_cast<double>(sent));
}

Napi::Value UnixSocket::Receive(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::uint32_t max_bytes = 0;
  std::uint32_t max_fds = 0;
  if (!IsOpen(env) || !ReadUint32(info[0], "maxBytes", &max_bytes, kMostBytes) || !ReadUint32(info[1], "maxFds", &max_fds, kMostFds))
    return env.Undefined();
  buffer_.resize(std::max<std::uint32_t>(max_bytes, 1));

  iovec part{buffer_.data(), max_bytes};
  // Room for all that the kernel can pass: too many are counted here and closed, instead of half of them.
  alignas(cmsghdr) std::array<std::uint8_t, CMSG_SPACE(sizeof(int) * kMostFds) + 64> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t count = -1;
  do count = recvmsg(fd_.Get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (count < 0 && errno == EINTR);
  if (count < 0) {
    if (errno != EAGAIN) Throw(env, LastFailure("recvmsg"));
    return env.Undefined();
  }
  std::vector<UniqueFd> fds = ReceivedFds(&message);
  if (count == 0 && fds.empty() && (message.msg_flags & MSG_CTRUNC) == 0 && IsAtEnd()) return env.Null();

  const bool is_truncated = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || fds.size() > max_fds;
  if (is_truncated) fds.clear();
  Napi::Object result = Napi::Object::New(env);
  Napi::Array owned = Napi::Array::New(env);
  for (std::uint32_t i = 0; i < fds.size(); i++) owned.Set(i, OwnedFd::New(env, std::move(fds[i])));
  result.Set("bytes", Napi::Buffer<std::uint8_t>::Copy(env, buffer_.data(), static_cast<std::size_t>(count)));
  result.Set("fds", owned);
  result.Set("isTruncated", is_truncated);
  return result;
}

bool UnixSocket::IsAtEnd() const {
  pollfd question{fd_.Get(), POLLRDHUP, 0};
  int waiting = 0;
  if (poll(&question, 1, 0) < 0 || (question.revents & (POLLRDHUP | POLLHUP)) == 0) return false;
  return ioctl(fd_.Get(), SIOCINQ, &waiting) != 0 || waiting == 0;
}

Napi::Value UnixSocket::Peer(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!IsOpen(env)) return env.Undefined();
  ucred peer{};
  socklen_t length = sizeof(peer);
  if (getsockopt(fd_.Get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    Throw(env, LastFailure("getsockopt SO_PEERCRED"));
    return env.Undefined();
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("pid", peer.pid);
  result.Set("uid", peer.uid);
  result.Set("gid", peer.gid);
  return result;
}

}  // namespace sidestep
