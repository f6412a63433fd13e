// One thread that waits with epoll for descriptors that Node's event loop has no handle for, such as SOCK_SEQPACKET
// sockets. It only says that one is ready; the JavaScript thread then makes the calls, none of which waits. A descriptor
// is armed for one report at a time, so that what is queued towards JavaScript is bounded by the number of descriptors.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "unique_fd.h"

namespace sidestep {

class Pollable {
 public:
  /** On the JavaScript thread, with the EPOLL* events. It is armed no longer, and may remove itself or others. */
  virtual void OnReady(Napi::Env env, std::uint32_t events) = 0;

 protected:
  ~Pollable() = default;
};

/** JavaScript thread only, but for its own thread. Keeps the process running while it has a descriptor. */
class Poller {
 public:
  /** The one of this environment, started at first use; nullptr if that fails, as a rule with a pending exception. */
  static std::shared_ptr<Poller> Of(Napi::Env env);

  explicit Poller(Napi::Env env);
  ~Poller();
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  /** Not yet armed. Its name for the other calls, never 0; or 0 with errno set. */
  std::uint64_t Add(int fd, Pollable* pollable);
  /** False with errno set. */
  bool Arm(std::uint64_t id, int fd, std::uint32_t events);
  /** Before the descriptor is closed. No report of it comes any more. */
  void Remove(std::uint64_t id, int fd);

 private:
  struct Report {
    std::uint64_t id;
    std::uint32_t events;
  };
  using Reports = std::vector<Report>;

  void Main();
  void Stop();
  /** On the JavaScript thread; with an empty environment it only frees the reports. */
  static void Deliver(Napi::Env env, Napi::Function callback, Poller* self, Reports* reports);
  using ToJavaScript = Napi::TypedThreadSafeFunction<Poller, Reports, Deliver>;

  Napi::Env env_;
  ToJavaScript to_javascript_;
  UniqueFd epoll_;
  UniqueFd wake_;
  std::uint64_t last_id_ = 0;
  std::unordered_map<std::uint64_t, Pollable*> pollables_;
  std::thread thread_;
};

}  // namespace sidestep
