#include "errors.h"

#include <cerrno>
#include <cstring>

#include "addon_data.h"

namespace sidestep {

Failure LastFailure(std::string call, std::string detail) {
  return Failure{errno, std::move(call), std::move(detail)};
}

void SetErrorFactory(Napi::Env env, Napi::Function factory) {
  env.GetInstanceData<AddonData>()->error_factory = Napi::Persistent(factory);
}

Napi::Error MakeError(Napi::Env env, const Failure& failure) {
  auto* data = env.GetInstanceData<AddonData>();
  if (data != nullptr && !data->error_factory.IsEmpty()) {
    Napi::Value made = data->error_factory.Call({Napi::String::New(env, failure.call), Napi::Number::New(env, failure.error),
                                                 Napi::String::New(env, failure.detail)});
    if (!env.IsExceptionPending() && made.IsObject()) return Napi::Error(env, made);
    // One that the factory threw, or its termination, must not be pending when ours is thrown.
    napi_value ignored = nullptr;
    (void)napi_get_and_clear_last_exception(env, &ignored);
  }
  return Napi::Error::New(env, failure.call + ": " + std::strerror(failure.error) + (failure.detail.empty() ? "" : ": " + failure.detail));
}

void Throw(Napi::Env env, const Failure& failure) {
  if (!env.IsExceptionPending()) MakeError(env, failure).ThrowAsJavaScriptException();
}

}  // namespace sidestep
