#include "owned_fd.h"

#include <cerrno>

#include "addon_data.h"
#include "errors.h"

namespace sidestep {

void OwnedFd::Init(Napi::Env env, Napi::Object exports) {
  Napi::Function constructor = DefineClass(env, "OwnedFd",
                                           {InstanceAccessor<&OwnedFd::Fd>("fd"), InstanceMethod<&OwnedFd::Release>("release"),
                                            InstanceMethod<&OwnedFd::Close>("close")});
  env.GetInstanceData<AddonData>()->owned_fd_constructor = Napi::Persistent(constructor);
  exports.Set("OwnedFd", constructor);
}

Napi::Value OwnedFd::New(Napi::Env env, UniqueFd fd) {
  Napi::Object object = env.GetInstanceData<AddonData>()->owned_fd_constructor.New({});
  if (env.IsExceptionPending()) return env.Undefined();
  Napi::ObjectWrap<OwnedFd>::Unwrap(object)->fd_ = std::move(fd);
  return object;
}

int OwnedFd::FdOf(const Napi::Value& value) {
  Napi::Env env = value.Env();
  if (value.IsObject()) {
    Napi::Object object = value.As<Napi::Object>();
    if (object.InstanceOf(env.GetInstanceData<AddonData>()->owned_fd_constructor.Value())) {
      int fd = Napi::ObjectWrap<OwnedFd>::Unwrap(object)->fd_.Get();
      if (fd >= 0) return fd;
      MakeError(env, Failure{EBADF, "fd", "used after close"}).ThrowAsJavaScriptException();
      return -1;
    }
  }
  Napi::TypeError::New(env, "expected an OwnedFd").ThrowAsJavaScriptException();
  return -1;
}

OwnedFd::OwnedFd(const Napi::CallbackInfo& info) : Napi::ObjectWrap<OwnedFd>(info) {}

Napi::Value OwnedFd::Fd(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_.Get()); }

Napi::Value OwnedFd::Release(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_.Release()); }

void OwnedFd::Close(const Napi::CallbackInfo&) { fd_.Reset(); }

}  // namespace sidestep
