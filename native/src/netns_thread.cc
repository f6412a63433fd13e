#include "netns_thread.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "addon_data.h"
#include "owned_fd.h"

namespace sidestep {

NetnsThread* NetnsThread::Of(Napi::Env env) {
  auto* data = env.GetInstanceData<AddonData>();
  if (!data->netns_thread) {
    data->netns_thread = std::make_unique<NetnsThread>(env);
    // A thread that could not start (no descriptors left) is tried again by the next call.
    if (!data->netns_thread->thread_.joinable()) {
      data->netns_thread.reset();
      return nullptr;
    }
    // Registered after the thread-safe function, hence run before its own clean-up: nobody calls into a closing environment.
    env.AddCleanupHook([data] { data->netns_thread.reset(); });
  }
  return data->netns_thread.get();
}

NetnsThread::NetnsThread(Napi::Env env)
    : env_(env),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      home_(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = wake_.Get();
  if (!home_.IsOpen() || epoll_ctl(epoll_.Get(), EPOLL_CTL_ADD, wake_.Get(), &event) != 0) {
    Throw(env, LastFailure("epoll/eventfd/open", "/proc/self/ns/net"));
    return;
  }
  to_javascript_ = ToJavaScript::New(env, "sidestep-netns", 0, 1, this);
  if (static_cast<napi_threadsafe_function>(to_javascript_) == nullptr) return;
  to_javascript_.Unref(env);
  thread_ = std::thread([this] { Main(); });
}

NetnsThread::~NetnsThread() { Stop(); }

void NetnsThread::Stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  const std::uint64_t one = 1;
  (void)!write(wake_.Get(), &one, sizeof(one));
  thread_.join();
  to_javascript_.Abort();
}

Napi::Value NetnsThread::Post(const Napi::Value& netns, std::unique_ptr<NetnsJob> job) {
  job->netns_ = OwnedFd::DuplicateOf(netns);
  if (!job->netns_.IsOpen()) return env_.Undefined();
  return Post(std::move(job));
}

Napi::Value NetnsThread::Post(std::unique_ptr<NetnsJob> job) {
  job->deferred_.emplace(env_);
  if (!job->deferred_->IsThere()) return env_.Undefined();
  const Napi::Value promise(env_, job->deferred_->Promise());
  if (outstanding_++ == 0) to_javascript_.Ref(env_);
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
  }
  const std::uint64_t one = 1;
  (void)!write(wake_.Get(), &one, sizeof(one));
  return promise;
}

void NetnsThread::Main() {
  prctl(PR_SET_NAME, "sidestep-netns");
  bool at_home = true;
  std::array<epoll_event, 64> events{};
  while (true) {
    std::deque<std::unique_ptr<NetnsJob>> batch;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      batch.swap(queue_);
    }
    for (auto& job : batch) {
      if (job->netns_.IsOpen()) at_home = false;
      Start(std::move(job));
    }
    if (!at_home) {
      // Failing to go home is harmless for correctness: every job enters its own namespace first.
      (void)setns(home_.Get(), CLONE_NEWNET);
      at_home = true;
    }
    const int count = epoll_wait(epoll_.Get(), events.data(), events.size(), NextTimeoutMs());
    for (int i = 0; i < count; i++) {
      const int fd = events[static_cast<std::size_t>(i)].data.fd;
      if (fd == wake_.Get()) {
        std::uint64_t value = 0;
        (void)!read(fd, &value, sizeof(value));
      } else {
        Complete(fd);
      }
    }
    Expire();
  }
}

int NetnsThread::NextTimeoutMs() const {
  if (deadlines_.empty()) return -1;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadlines_.begin()->first - Clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count() + 1, 0, 60'000));
}

void NetnsThread::Start(std::unique_ptr<NetnsJob> job) {
  if (job->netns_.IsOpen() && setns(job->netns_.Get(), CLONE_NEWNET) != 0) {
    job->failure_ = LastFailure("setns");
    Settle(std::move(job));
    return;
  }
  job->Run();
  const int fd = job->pending_fd_;
  if (job->failure_ || fd < 0) {
    Settle(std::move(job));
    return;
  }
  epoll_event event{};
  event.events = EPOLLOUT;
  event.data.fd = fd;
  if (epoll_ctl(epoll_.Get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    job->failure_ = LastFailure("epoll_ctl");
    Settle(std::move(job));
    return;
  }
  const auto deadline = deadlines_.emplace(Clock::now() + job->timeout_, fd);
  waiting_.emplace(fd, Waiting{std::move(job), deadline});
}

void NetnsThread::Complete(int fd) {
  const auto found = waiting_.find(fd);
  if (found == waiting_.end()) return;
  deadlines_.erase(found->second.deadline);
  std::unique_ptr<NetnsJob> job = std::move(found->second.job);
  waiting_.erase(found);
  epoll_ctl(epoll_.Get(), EPOLL_CTL_DEL, fd, nullptr);
  job->Finish();
  Settle(std::move(job));
}

void NetnsThread::Expire() {
  const auto now = Clock::now();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const int fd = deadlines_.begin()->second;
    const auto found = waiting_.find(fd);
    deadlines_.erase(deadlines_.begin());
    std::unique_ptr<NetnsJob> job = std::move(found->second.job);
    waiting_.erase(found);
    epoll_ctl(epoll_.Get(), EPOLL_CTL_DEL, fd, nullptr);
    job->failure_ = Failure{ETIMEDOUT, "connect", {}};
    Settle(std::move(job));
  }
}

void NetnsThread::Settle(std::unique_ptr<NetnsJob> job) {
  job->netns_.Reset();
  NetnsJob* raw = job.release();
  if (to_javascript_.BlockingCall(raw) != napi_ok) delete raw;
}

void NetnsThread::Deliver(Napi::Env env, Napi::Function, NetnsThread* self, NetnsJob* job) {
  const std::unique_ptr<NetnsJob> settled(job);
  if (env == nullptr) return;  // the environment is closing and `self` gone; the job's descriptors close with it
  if (--self->outstanding_ == 0) self->to_javascript_.Unref(env);
  if (settled->failure_) {
    settled->deferred_->Reject(env, settled->failure_);
  } else {
    settled->deferred_->Resolve(env, settled->Result(env));
  }
}

}  // namespace sidestep
