#include "ring_buffer.h"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstdint>

#include "errors.h"
#include "owned_fd.h"

namespace sidestep {
namespace {

constexpr std::size_t kBatchRecords = 512;

}  // namespace

void RingBuffer::Init(Napi::Env env, Napi::Object exports) {
  exports.Set("RingBuffer", DefineClass(env, "RingBuffer", {InstanceMethod<&RingBuffer::Close>("close")}));
}

RingBuffer::RingBuffer(const Napi::CallbackInfo& info) : Napi::ObjectWrap<RingBuffer>(info) {
  Napi::Env env = info.Env();
  const int map = OwnedFd::FdOf(info[0]);
  if (map < 0) return;
  record_bytes_ = info[1].As<Napi::Number>().Uint32Value();
  map_.Reset(fcntl(map, F_DUPFD_CLOEXEC, 3));
  wake_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_.Reset(epoll_create1(EPOLL_CLOEXEC));
  ring_ = ring_buffer__new(map_.Get(), OnRecord, this, nullptr);
  if (ring_ == nullptr || !wake_.IsOpen() || !epoll_.IsOpen()) {
    MakeError(env, LastFailure("ring_buffer__new")).ThrowAsJavaScriptException();
    return;
  }
  for (const int fd : {wake_.Get(), ring_buffer__epoll_fd(ring_)}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    epoll_ctl(epoll_.Get(), EPOLL_CTL_ADD, fd, &event);
  }
  // Queue of one: the reader blocks while JavaScript works on the batch before. Two users: this object and its reader.
  to_javascript_ = Napi::ThreadSafeFunction::New(env, info[2].As<Napi::Function>(), "sidestep-events", 1, 2);
  to_javascript_.Unref(env);
  napi_add_env_cleanup_hook(env, StopAtExit, this);
  env_ = env;
  thread_ = std::thread([this] { Main(); });
}

RingBuffer::~RingBuffer() { Stop(); }

void RingBuffer::Close(const Napi::CallbackInfo&) { Stop(); }

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
}

int RingBuffer::OnRecord(void* context, void* data, std::size_t size) {
  auto* self = static_cast<RingBuffer*>(context);
  if (size != self->record_bytes_) return 0;  // another version's event: the layout hash rules that out, so only defence
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  self->batch_.insert(self->batch_.end(), bytes, bytes + size);
  return self->batch_.size() >= self->record_bytes_ * kBatchRecords ? -EAGAIN : 0;
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
      auto* data = new std::vector<std::uint8_t>(std::move(batch_));
      const auto deliver = [](Napi::Env env, Napi::Function callback, std::vector<std::uint8_t>* records) {
        if (env != nullptr) callback.Call({Napi::Buffer<std::uint8_t>::Copy(env, records->data(), records->size())});
        delete records;
      };
      if (to_javascript_.BlockingCall(data, deliver) != napi_ok) {
        delete data;
        return;  // closing: the failed call has given up our use already
      }
    } while (!stopping_);
  }
  to_javascript_.Release();
}

}  // namespace sidestep
