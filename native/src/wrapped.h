// Objects of ours that JavaScript holds, in an environment that may end between any two calls: Worker.terminate() makes
// every later call into JavaScript fail, without an exception that anybody could see.
#pragma once

#include <napi.h>

namespace sidestep {

/**
 * First thing in the constructor of each Napi::ObjectWrap: false where the object could not be tied to its JavaScript one.
 * Napi::ObjectWrap then forgets it, so it is freed when the environment ends; the constructor must start nothing.
 */
template <typename T>
bool IsWrapped(Napi::Env env, T* self) {
  if (!self->IsEmpty()) return true;
  napi_add_env_cleanup_hook(env, [](void* unwrapped) { delete static_cast<T*>(unwrapped); }, self);
  return false;
}

/** Napi::ObjectWrap::Unwrap without an exception: nullptr where there is none, or where the environment is ending. */
template <typename T>
T* UnwrapOrNull(const Napi::Object& object) {
  void* self = nullptr;
  return napi_unwrap(object.Env(), object, &self) == napi_ok ? static_cast<T*>(self) : nullptr;
}

}  // namespace sidestep
