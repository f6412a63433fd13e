// Reading what JavaScript passed. src/kernel validates arguments with sentences for people; these readers only make sure
// that a wrong one cannot read past a buffer or end the process. Each returns false with a TypeError pending, after which
// the caller must return at once: throwing a second time is fatal to the process.
#pragma once

#include <napi.h>

#include <cstdint>
#include <span>
#include <string>

namespace sidestep {

using Bytes = std::span<std::uint8_t>;

bool ThrowExpected(Napi::Env env, const std::string& name, const std::string& expected);

/** Text without NUL, which the kernel would take for its end. */
bool ReadString(const Napi::Value& value, const char* name, std::string* out);
/** An integer of 0 to `max`. */
bool ReadUint32(const Napi::Value& value, const char* name, std::uint32_t* out, std::uint32_t max = UINT32_MAX);
/** A Uint8Array or Buffer; the bytes are valid until JavaScript runs again. */
bool ReadBytes(const Napi::Value& value, const char* name, Bytes* out);
bool ReadObject(const Napi::Value& value, const char* name, Napi::Object* out);

/** The property's value, undefined where it is absent; false if its getter threw. */
bool GetField(const Napi::Object& object, const char* name, Napi::Value* out);
/** Leaves `out` as it is where the property is absent. */
bool ReadOptionalUint32(const Napi::Object& object, const char* name, std::uint32_t* out, std::uint32_t max = UINT32_MAX);
bool ReadOptionalBool(const Napi::Object& object, const char* name, bool* out);

}  // namespace sidestep
