// Failures of system calls as values, and as JavaScript errors made by the factory that TypeScript hands over at start:
// errors carry the call, its errno and a hint, and are of the product's one class.
#pragma once

#include <napi.h>

#include <string>

namespace sidestep {

/** A failed call. `error` is a positive errno, 0 means no failure. */
struct Failure {
  int error = 0;
  std::string call;
  std::string detail;

  explicit operator bool() const { return error != 0; }
};

/** The failure of `call` with the current errno. */
Failure LastFailure(std::string call, std::string detail = {});

/** Remembers the factory (call, errno, detail) => Error for this environment. */
void SetErrorFactory(Napi::Env env, Napi::Function factory);

/** A JavaScript error of the product's class, or a plain Error before the factory is set. */
Napi::Error MakeError(Napi::Env env, const Failure& failure);

/** Throws it into JavaScript; an exception that is pending already stays the one. */
void Throw(Napi::Env env, const Failure& failure);

}  // namespace sidestep
