#include "ring_buffer.h"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstdint>
#include <memory>

#include "arguments.h"
#include "errors.h"
#include "owned_fd.h"
#include "wrapped.h"

namespace sidestep {
namespace {

constexpr std::size_t kBatchRecords = 512;
constexpr std::uint32_t kMaxRecordBytes = 4096;

}  // namespace

void RingBuffer::Init(Napi::Env env, Napi::Object exports) {
  exports.Set("RingBuffer", DefineClass(env, "RingBuffer", {InstanceMethod<&RingBuffer::Close>("close")}));
}

RingBuffer::RingBuffer(const Napi::CallbackInfo& info) : Napi::ObjectWrap<RingBuffer>(info) {
  Napi::Env env = info.Env();
  if (!IsWrapped(env, this)) return;
  std::uint32_t record_bytes = 0;
  const bool is_right = OwnedFd::FdOf(info[0]) >= 0 && ReadUint32(info[1], "recordBytes", &record_bytes, kMaxRecordBytes) &&
                        (record_bytes > 0 || ThrowExpected(env, "recordBytes", "more than 0")) &&
                        (info[2].IsFunction() || ThrowExpected(env, "onBatch", "a function"));
  if (!is_right) return;
  record_bytes_ = record_bytes;
  map_ = OwnedFd::DuplicateOf(info[0]);
  if (!map_.IsOpen()) return;
  ring_ = ring_buffer__new(map_.Get(), OnRecord, this, nullptr);
  if (ring_ == nullptr) {
    Throw(env, LastFailure("ring_buffer__new"));
    return;
  }
  wake_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_.Reset(epoll_create1(EPOLL_CLOEXEC));
  for (const int fd : {wake_.Get(), ring_buffer__epoll_fd(ring_)}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll_.Get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      Throw(env, LastFailure("eventfd/epoll"));
      return;
    }
  }
  // Queue of one: the reader blocks while JavaScript works on the batch before. Two users: this object and its reader.
  to_javascript_ = ToJavaScript::New(env, info[2].As<Napi::Function>(), "sidestep-events", 1, 2, this);
  if (static_cast<napi_threadsafe_function>(to_javascript_) == nullptr) return;
  to_javascript_.Unref(env);
  napi_add_env_cleanup_hook(env, StopAtExit, this);
  env_ = env;
  Ref();
  thread_ = std::thread([this] { Main(); });
}

RingBuffer::~RingBuffer() { Stop(); }

void RingBuffer::Close(const Napi::CallbackInfo&) {
  if (!thread_.joinable()) return;
  Stop();
  Unref();
}

void RingBuffer::StopAtExit(void* self) { static_cast<RingBuffer*>(self)->Stop(); }

void RingBuffer::Stop() {
  if (thread_.joinable()) {
    napi_remove_env_cleanup_hook(env_, StopAtExit, this);
    stopping_ = true;
    const std::uint64_t one = 1;
    (void)!write(wake_.Get(), &one, sizeof(one));
    to_javascript_.Abort();  // wakes a reader that waits for the queue
    thread_.join();
  }
  ring_buffer__free(ring_);
  ring_ = nullptr;
  epoll_.Reset();
  wake_.Reset();
  map_.Reset();
}

int RingBuffer::OnRecord(void* context, void* data, std::size_t size) {
  auto* self = static_cast<RingBuffer*>(context);
  if (size != self->record_bytes_) return 0;  // another version's event: the layout hash rules that out, so only defence
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  self->batch_.insert(self->batch_.end(), bytes, bytes + size);
  return self->batch_.size() >= self->record_bytes_ * kBatchRecords ? -EAGAIN : 0;
}

void RingBuffer::Deliver(Napi::Env env, Napi::Function callback, RingBuffer*, Records* records) {
  const std::unique_ptr<Records> owned(records);
  if (env == nullptr) return;
  callback.Call({Napi::Buffer<std::uint8_t>::Copy(env, owned->data(), owned->size())});
  if (!env.IsExceptionPending()) return;
  // Left pending it would become a deprecation warning; it is as uncaught as one in a timer.
  const Napi::Error error = env.GetAndClearPendingException();
  napi_fatal_exception(env, error.Value());
}

void RingBuffer::Main() {
  prctl(PR_SET_NAME, "sidestep-events");
  while (!stopping_) {
    epoll_event events[2];
    if (epoll_wait(epoll_.Get(), events, 2, -1) < 0 && errno != EINTR) break;
    do {
      batch_.clear();
      batch_.reserve(record_bytes_ * kBatchRecords);
      (void)ring_buffer__consume(ring_);
      if (batch_.empty() || stopping_) break;
      auto* data = new Records(std::move(batch_));
      if (to_javascript_.BlockingCall(data) != napi_ok) {
        delete data;
        return;  // closing: the failed call has given up our use already
      }
    } while (!stopping_);
  }
  to_javascript_.Release();
}

}  // namespace sidestep
