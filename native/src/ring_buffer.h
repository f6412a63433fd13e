// A BPF ring buffer read by a thread and given to JavaScript in batches, at most one batch in flight: what JavaScript
// cannot keep up with stays in the ring, and the programs count what no longer fits. Like a server it lives until it is
// closed or its environment ends, whether or not JavaScript still holds it; it does not keep the process running.
#pragma once

#include <napi.h>

#include <atomic>
#include <thread>
#include <vector>

#include "unique_fd.h"

struct ring_buffer;

namespace sidestep {

class RingBuffer : public Napi::ObjectWrap<RingBuffer> {
 public:
  static void Init(Napi::Env env, Napi::Object exports);

  /** new RingBuffer(map: OwnedFd, recordBytes, onBatch: (records: Buffer) => void); records are concatenated. */
  explicit RingBuffer(const Napi::CallbackInfo& info);
  ~RingBuffer() override;

 private:
  void Close(const Napi::CallbackInfo& info);
  /** Ends the thread and closes everything; may be called again. */
  void Stop();
  static void StopAtExit(void* self);
  void Main();
  static int OnRecord(void* context, void* data, std::size_t size);

  using Records = std::vector<std::uint8_t>;
  /** With an empty environment it only frees the records. */
  static void Deliver(Napi::Env env, Napi::Function callback, RingBuffer* self, Records* records);
  using ToJavaScript = Napi::TypedThreadSafeFunction<RingBuffer, Records, Deliver>;

  napi_env env_ = nullptr;
  std::size_t record_bytes_ = 0;
  ring_buffer* ring_ = nullptr;
  UniqueFd map_;
  UniqueFd wake_;
  UniqueFd epoll_;
  std::atomic<bool> stopping_{false};
  Records batch_;  // reader thread only
  ToJavaScript to_javascript_;
  std::thread thread_;
};

}  // namespace sidestep
