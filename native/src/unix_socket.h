// Unix sockets that keep messages apart (SOCK_SEQPACKET) or not (SOCK_STREAM) and carry descriptors (SCM_RIGHTS), which
// Node's own sockets do not. No call waits. Descriptors that arrive with a message belong to it: whatever fails, each is
// either handed to JavaScript or closed.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "poller.h"
#include "unique_fd.h"

namespace sidestep {

/** unixConnect(path, isSeqpacket) -> OwnedFd, connected */
Napi::Value UnixConnect(const Napi::CallbackInfo& info);
/** unixListen(path, isSeqpacket, mode) -> OwnedFd. Binds a path that must not exist yet, with that file mode. */
Napi::Value UnixListen(const Napi::CallbackInfo& info);
/** duplicate(fd: OwnedFd | number) -> OwnedFd for the same open file */
Napi::Value Duplicate(const Napi::CallbackInfo& info);

/** Like a server it lives until it is closed or its environment ends, whether or not JavaScript still holds it. */
class UnixSocket : public Napi::ObjectWrap<UnixSocket>, private Pollable {
 public:
  static void Init(Napi::Env env, Napi::Object exports);

  /** new UnixSocket(fd: OwnedFd, onReady: () => void); takes the descriptor over. */
  explicit UnixSocket(const Napi::CallbackInfo& info);
  ~UnixSocket() override;

 private:
  void OnReady(Napi::Env env, std::uint32_t events) override;
  /** arm(writable): calls onReady once when there is something to read or accept, or, if asked, room to write. */
  void Arm(const Napi::CallbackInfo& info);
  /** accept() -> OwnedFd | undefined */
  Napi::Value Accept(const Napi::CallbackInfo& info);
  /** send(bytes, offset, fds: OwnedFd[]) -> bytes taken, or -1 where there is no room now */
  Napi::Value Send(const Napi::CallbackInfo& info);
  /** receive(maxBytes, maxFds) -> undefined (nothing now) | null (the end) | { bytes, fds, isTruncated } */
  Napi::Value Receive(const Napi::CallbackInfo& info);
  /** peer() -> { pid, uid, gid } at the time of the connect */
  Napi::Value Peer(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  /** False with a pending exception after close. */
  bool IsOpen(Napi::Env env) const;
  /** Whether nothing comes any more: a message may be empty, too. */
  [[nodiscard]] bool IsAtEnd() const;
  void Stop();

  UniqueFd fd_;
  Napi::FunctionReference on_ready_;
  std::weak_ptr<Poller> poller_;
  std::uint64_t id_ = 0;
  std::vector<std::uint8_t> buffer_;
};

}  // namespace sidestep
