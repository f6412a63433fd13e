// A promise for JavaScript and the one way to settle it. Napi::Promise::Deferred cannot be told from garbage where making
// it failed, which happens in a worker that is being terminated; this one is empty then, and settling never throws.
#pragma once

#include <napi.h>

#include "errors.h"

namespace sidestep {

class Deferred {
 public:
  explicit Deferred(Napi::Env env) {
    if (napi_create_promise(env, &deferred_, &promise_) == napi_ok) return;
    deferred_ = nullptr;
    promise_ = nullptr;
  }

  /** False where the environment may no longer run JavaScript: nothing will ask for the result. */
  [[nodiscard]] bool IsThere() const { return deferred_ != nullptr; }

  /** Valid until the call that made it returns to JavaScript. */
  [[nodiscard]] napi_value Promise() const { return promise_; }

  /** Resolves with `value`, or rejects with the exception that making it left pending. Once, with Reject. */
  void Resolve(Napi::Env env, const Napi::Value& value) {
    if (env.IsExceptionPending()) {
      napi_value error = nullptr;
      if (napi_get_and_clear_last_exception(env, &error) == napi_ok) (void)napi_reject_deferred(env, deferred_, error);
    } else {
      const napi_value result = value.IsEmpty() ? static_cast<napi_value>(env.Undefined()) : static_cast<napi_value>(value);
      (void)napi_resolve_deferred(env, deferred_, result);
    }
    deferred_ = nullptr;
  }

  void Reject(Napi::Env env, const Failure& failure) {
    (void)napi_reject_deferred(env, deferred_, MakeError(env, failure).Value());
    deferred_ = nullptr;
  }

 private:
  napi_deferred deferred_ = nullptr;
  napi_value promise_ = nullptr;
};

}  // namespace sidestep
