#include "poller.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include <array>
#include <cerrno>

#include "addon_data.h"
#include "errors.h"

namespace sidestep {

std::shared_ptr<Poller> Poller::Of(Napi::Env env) {
  auto* data = env.GetInstanceData<AddonData>();
  if (!data->poller) {
    auto poller = std::make_shared<Poller>(env);
    // One that could not start (no descriptors left) is tried again by the next call.
    if (!poller->thread_.joinable()) return nullptr;
    data->poller = std::move(poller);
    // Run before the thread-safe function's own clean-up: nobody calls into a closing environment.
    env.AddCleanupHook([data] {
      data->poller->Stop();
      data->poller.reset();
    });
  }
  return data->poller;
}

Poller::Poller(Napi::Env env) : env_(env), epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 0;
  if (epoll_ctl(epoll_.Get(), EPOLL_CTL_ADD, wake_.Get(), &event) != 0) {
    Throw(env, LastFailure("epoll/eventfd"));
    return;
  }
  // One batch under way: the thread waits while JavaScript works on the one before.
  to_javascript_ = ToJavaScript::New(env, "sidestep-poller", 1, 1, this);
  if (static_cast<napi_threadsafe_function>(to_javascript_) == nullptr) return;
  to_javascript_.Unref(env);
  thread_ = std::thread([this] { Main(); });
}

Poller::~Poller() { Stop(); }

void Poller::Stop() {
  if (!thread_.joinable()) return;
  const std::uint64_t one = 1;
  (void)!write(wake_.Get(), &one, sizeof(one));
  to_javascript_.Abort();  // wakes a thread that waits for the queue
  thread_.join();
}

std::uint64_t Poller::Add(int fd, Pollable* pollable) {
  const std::uint64_t id = ++last_id_;
  epoll_event event{};
  event.events = EPOLLONESHOT;
  event.data.u64 = id;
  // Without an event asked for, errors and hang-ups are told all the same; OnReady hears of them.
  if (epoll_ctl(epoll_.Get(), EPOLL_CTL_ADD, fd, &event) != 0) return 0;
  if (pollables_.empty()) to_javascript_.Ref(env_);
  pollables_.emplace(id, pollable);
  return id;
}

bool Poller::Arm(std::uint64_t id, int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events | EPOLLONESHOT;
  event.data.u64 = id;
  return epoll_ctl(epoll_.Get(), EPOLL_CTL_MOD, fd, &event) == 0;
}

void Poller::Remove(std::uint64_t id, int fd) {
  if (pollables_.erase(id) == 0) return;
  (void)epoll_ctl(epoll_.Get(), EPOLL_CTL_DEL, fd, nullptr);
  if (pollables_.empty()) to_javascript_.Unref(env_);
}

void Poller::Main() {
  prctl(PR_SET_NAME, "sidestep-poller");
  std::array<epoll_event, 64> events{};
  while (true) {
    const int count = epoll_wait(epoll_.Get(), events.data(), events.size(), -1);
    if (count < 0 && errno != EINTR) return;
    auto reports = std::make_unique<Reports>();
    for (int i = 0; i < count; i++) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      if (event.data.u64 == 0) return;  // only written to end the thread
      reports->push_back(Report{event.data.u64, event.events});
    }
    if (reports->empty()) continue;
    Reports* raw = reports.release();
    if (to_javascript_.BlockingCall(raw) != napi_ok) {
      delete raw;
      return;
    }
  }
}

void Poller::Deliver(Napi::Env env, Napi::Function, Poller* self, Reports* reports) {
  const std::unique_ptr<Reports> owned(reports);
  if (env == nullptr) return;  // the environment is closing and `self` gone
  for (const Report& report : *owned) {
    // By name and not by descriptor: an earlier one of this batch may have closed it, and its number may be used again.
    const auto found = self->pollables_.find(report.id);
    if (found == self->pollables_.end()) continue;
    found->second->OnReady(env, report.events);
    if (!env.IsExceptionPending()) continue;
    // As uncaught as one in a timer.
    napi_value error = nullptr;
    if (napi_get_and_clear_last_exception(env, &error) == napi_ok) (void)napi_fatal_exception(env, error);
  }
}

}  // namespace sidestep
