#include "owned_fd.h"

#include <fcntl.h>

#include <cerrno>

#include "addon_data.h"
#include "arguments.h"
#include "errors.h"
#include "wrapped.h"

namespace sidestep {
namespace {

// Tells our objects from all others; instanceof would believe an object that merely inherits from our prototype.
constexpr napi_type_tag kTypeTag{0x5a1de57e90f50001, 0x8d1c6f0b3e7a4c92};

}  // namespace

void OwnedFd::Init(Napi::Env env, Napi::Object exports) {
  Napi::Function constructor = DefineClass(env, "OwnedFd",
                                           {InstanceAccessor<&OwnedFd::Fd>("fd"), InstanceMethod<&OwnedFd::Release>("release"),
                                            InstanceMethod<&OwnedFd::Close>("close")});
  env.GetInstanceData<AddonData>()->owned_fd_constructor = Napi::Persistent(constructor);
  exports.Set("OwnedFd", constructor);
}

Napi::Value OwnedFd::New(Napi::Env env, UniqueFd fd) {
  Napi::Object object = env.GetInstanceData<AddonData>()->owned_fd_constructor.New({});
  if (object.IsEmpty()) return env.Undefined();
  auto* owned = UnwrapOrNull<OwnedFd>(object);
  if (owned == nullptr) return env.Undefined();
  owned->fd_ = std::move(fd);
  return object;
}

OwnedFd* OwnedFd::Of(const Napi::Value& value) {
  if (value.IsEmpty()) return nullptr;  // what an environment that is ending gives for anything
  Napi::Env env = value.Env();
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTypeTag)) {
    ThrowExpected(env, "descriptor", "an OwnedFd");
    return nullptr;
  }
  auto* owned = UnwrapOrNull<OwnedFd>(value.As<Napi::Object>());
  if (owned == nullptr || owned->fd_.IsOpen()) return owned;
  Throw(env, Failure{EBADF, "fd", "used after close"});
  return nullptr;
}

int OwnedFd::FdOf(const Napi::Value& value) {
  const OwnedFd* owned = Of(value);
  return owned == nullptr ? -1 : owned->Get();
}

UniqueFd OwnedFd::DuplicateOf(const Napi::Value& value) {
  const int fd = FdOf(value);
  if (fd < 0) return {};
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy.IsOpen()) Throw(value.Env(), LastFailure("fcntl F_DUPFD_CLOEXEC"));
  return copy;
}

OwnedFd::OwnedFd(const Napi::CallbackInfo& info) : Napi::ObjectWrap<OwnedFd>(info) {
  if (IsWrapped(info.Env(), this)) info.This().As<Napi::Object>().TypeTag(&kTypeTag);
}

Napi::Value OwnedFd::Fd(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_.Get()); }

Napi::Value OwnedFd::Release(const Napi::CallbackInfo& info) {
  map_shape_.reset();
  return Napi::Number::New(info.Env(), fd_.Release());
}

void OwnedFd::Close(const Napi::CallbackInfo&) {
  map_shape_.reset();
  fd_.Reset();
}

}  // namespace sidestep
