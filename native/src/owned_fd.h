// A file descriptor owned by a JavaScript object: closed by close(), by the garbage collector, or when the environment
// ends, whichever comes first. release() hands it to somebody else (net, dgram).
#pragma once

#include <napi.h>

#include "unique_fd.h"

namespace sidestep {

class OwnedFd : public Napi::ObjectWrap<OwnedFd> {
 public:
  static void Init(Napi::Env env, Napi::Object exports);
  /** Wraps `fd`; it is closed if that fails. */
  static Napi::Value New(Napi::Env env, UniqueFd fd);
  /** The descriptor in `value`, or -1 with a pending JavaScript exception. */
  static int FdOf(const Napi::Value& value);

  explicit OwnedFd(const Napi::CallbackInfo& info);

 private:
  Napi::Value Fd(const Napi::CallbackInfo& info);
  Napi::Value Release(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  UniqueFd fd_;
};

}  // namespace sidestep
