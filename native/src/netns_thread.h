// One thread that enters network namespaces, so that the JavaScript thread never does: it works off a queue of jobs, waits
// for connects with epoll, and goes home when the queue is empty so that no removed pod's namespace is kept alive.
// Owns its epoll and event descriptors; a job owns its namespace descriptor and whatever it makes until it is settled.
#pragma once

#include <napi.h>

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "deferred.h"
#include "errors.h"
#include "unique_fd.h"

namespace sidestep {

class NetnsJob {
 public:
  NetnsJob() = default;
  virtual ~NetnsJob() = default;
  NetnsJob(const NetnsJob&) = delete;
  NetnsJob& operator=(const NetnsJob&) = delete;

  /** On the thread, inside the namespace. Sets failure_, or pending_fd_ to wait until that descriptor is writable. */
  virtual void Run() = 0;
  /** On the thread, when pending_fd_ is writable. */
  virtual void Finish() {}
  /** On the JavaScript thread, where nothing failed. */
  virtual Napi::Value Result(Napi::Env env) = 0;

  UniqueFd netns_;
  Failure failure_;
  int pending_fd_ = -1;
  std::chrono::milliseconds timeout_{10'000};
  std::optional<Deferred> deferred_;  // made when the job is posted: one that is never settled is never freed
};

class NetnsThread {
 public:
  /** The thread of this environment, started at first use; nullptr with a pending exception if that fails. */
  static NetnsThread* Of(Napi::Env env);

  explicit NetnsThread(Napi::Env env);
  ~NetnsThread();
  NetnsThread(const NetnsThread&) = delete;
  NetnsThread& operator=(const NetnsThread&) = delete;

  /** Queues `job` for the namespace in `netns` (an OwnedFd) and returns its promise. */
  Napi::Value Post(const Napi::Value& netns, std::unique_ptr<NetnsJob> job);
  /** The same for a job that needs no namespace. */
  Napi::Value Post(std::unique_ptr<NetnsJob> job);

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    std::unique_ptr<NetnsJob> job;
    std::multimap<Clock::time_point, int>::iterator deadline;
  };

  void Main();
  void Start(std::unique_ptr<NetnsJob> job);
  void Expire();
  void Complete(int fd);
  void Settle(std::unique_ptr<NetnsJob> job);
  void Stop();
  /** On the JavaScript thread; with an empty environment it only frees the job. */
  static void Deliver(Napi::Env env, Napi::Function callback, NetnsThread* self, NetnsJob* job);
  using ToJavaScript = Napi::TypedThreadSafeFunction<NetnsThread, NetnsJob, Deliver>;
  [[nodiscard]] int NextTimeoutMs() const;

  Napi::Env env_;
  ToJavaScript to_javascript_;
  int outstanding_ = 0;  // JavaScript thread only
  UniqueFd epoll_;
  UniqueFd wake_;
  UniqueFd home_;
  std::mutex mutex_;
  std::deque<std::unique_ptr<NetnsJob>> queue_;
  bool stopping_ = false;
  std::map<int, Waiting> waiting_;                    // by descriptor; thread only
  std::multimap<Clock::time_point, int> deadlines_;  // thread only
  std::thread thread_;
};

}  // namespace sidestep
