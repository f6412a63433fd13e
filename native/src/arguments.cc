#include "arguments.h"

namespace sidestep {

bool ThrowExpected(Napi::Env env, const std::string& name, const std::string& expected) {
  if (!env.IsExceptionPending()) Napi::TypeError::New(env, name + ": expected " + expected).ThrowAsJavaScriptException();
  return false;
}

bool ReadString(const Napi::Value& value, const char* name, std::string* out) {
  if (!value.IsString()) return ThrowExpected(value.Env(), name, "a string");
  *out = value.As<Napi::String>().Utf8Value();
  if (out->find('\0') != std::string::npos) return ThrowExpected(value.Env(), name, "no NUL character");
  return true;
}

bool ReadUint32(const Napi::Value& value, const char* name, std::uint32_t* out, std::uint32_t max) {
  if (value.IsNumber()) {
    const double number = value.As<Napi::Number>().DoubleValue();
    // Written so that NaN fails, too.
    if (number >= 0 && number <= max) {
      *out = static_cast<std::uint32_t>(number);
      if (*out == number) return true;
    }
  }
  return ThrowExpected(value.Env(), name, "an integer of 0 to " + std::to_string(max));
}

bool ReadBytes(const Napi::Value& value, const char* name, Bytes* out) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    return ThrowExpected(value.Env(), name, "a Uint8Array");
  Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  *out = Bytes(array.Data(), array.ByteLength());
  return true;
}

bool ReadObject(const Napi::Value& value, const char* name, Napi::Object* out) {
  if (!value.IsObject()) return ThrowExpected(value.Env(), name, "an object");
  *out = value.As<Napi::Object>();
  return true;
}

bool GetField(const Napi::Object& object, const char* name, Napi::Value* out) {
  *out = object.Get(name);
  return !out->IsEmpty();
}

bool ReadOptionalUint32(const Napi::Object& object, const char* name, std::uint32_t* out, std::uint32_t max) {
  Napi::Value value;
  if (!GetField(object, name, &value)) return false;
  return value.IsUndefined() || ReadUint32(value, name, out, max);
}

bool ReadOptionalBool(const Napi::Object& object, const char* name, bool* out) {
  Napi::Value value;
  if (!GetField(object, name, &value)) return false;
  if (value.IsUndefined()) return true;
  if (!value.IsBoolean()) return ThrowExpected(value.Env(), name, "a boolean");
  *out = value.As<Napi::Boolean>();
  return true;
}

}  // namespace sidestep
