#include "bpf_link.h"

#include <bpf/bpf.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <vector>

#include "errors.h"
#include "owned_fd.h"

namespace sidestep {

Napi::Value LinkCreate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int program = OwnedFd::FdOf(info[0]);
  if (program < 0) return env.Undefined();
  const int target = info[1].IsNumber() ? info[1].As<Napi::Number>().Int32Value() : OwnedFd::FdOf(info[1]);
  if (target < 0) return env.Undefined();
  const auto type = static_cast<bpf_attach_type>(info[2].As<Napi::Number>().Uint32Value());
  UniqueFd link(bpf_link_create(program, target, type, nullptr));
  if (!link.IsOpen()) {
    MakeError(env, LastFailure("bpf_link_create", "attach type " + std::to_string(type))).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  return OwnedFd::New(env, std::move(link));
}

void LinkUpdate(const Napi::CallbackInfo& info) {
  const int link = OwnedFd::FdOf(info[0]);
  const int program = link < 0 ? -1 : OwnedFd::FdOf(info[1]);
  if (program < 0) return;
  if (bpf_link_update(link, program, nullptr) != 0) MakeError(info.Env(), LastFailure("bpf_link_update")).ThrowAsJavaScriptException();
}

void LinkDetach(const Napi::CallbackInfo& info) {
  const int link = OwnedFd::FdOf(info[0]);
  if (link >= 0 && bpf_link_detach(link) != 0) MakeError(info.Env(), LastFailure("bpf_link_detach")).ThrowAsJavaScriptException();
}

Napi::Value LinkInfo(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int link = OwnedFd::FdOf(info[0]);
  if (link < 0) return env.Undefined();
  bpf_link_info found{};
  std::uint32_t length = sizeof(found);
  if (bpf_obj_get_info_by_fd(link, &found, &length) != 0) {
    MakeError(env, LastFailure("bpf_obj_get_info_by_fd")).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("id", found.id);
  result.Set("programId", found.prog_id);
  result.Set("type", found.type);
  return result;
}

void Pin(const Napi::CallbackInfo& info) {
  const int fd = OwnedFd::FdOf(info[0]);
  if (fd < 0) return;
  const std::string path = info[1].As<Napi::String>();
  if (bpf_obj_pin(fd, path.c_str()) != 0) MakeError(info.Env(), LastFailure("bpf_obj_pin", path)).ThrowAsJavaScriptException();
}

Napi::Value GetPinned(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string path = info[0].As<Napi::String>();
  UniqueFd fd(bpf_obj_get(path.c_str()));
  if (fd.IsOpen()) return OwnedFd::New(env, std::move(fd));
  if (errno != ENOENT) MakeError(env, LastFailure("bpf_obj_get", path)).ThrowAsJavaScriptException();
  return env.Undefined();
}

Napi::Value ProgramTestRun(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int program = OwnedFd::FdOf(info[0]);
  if (program < 0) return env.Undefined();
  LIBBPF_OPTS(bpf_test_run_opts, options);
  std::vector<std::uint8_t> context;
  if (info[1].IsTypedArray()) {
    Napi::Uint8Array data = info[1].As<Napi::Uint8Array>();
    options.data_in = data.Data();
    options.data_size_in = static_cast<std::uint32_t>(data.ByteLength());
    options.repeat = 1;
  }
  if (info[2].IsTypedArray()) {
    Napi::Uint8Array in = info[2].As<Napi::Uint8Array>();
    context.assign(in.Data(), in.Data() + in.ByteLength());
    options.ctx_in = context.data();
    options.ctx_size_in = static_cast<std::uint32_t>(context.size());
    options.ctx_out = context.data();
    options.ctx_size_out = static_cast<std::uint32_t>(context.size());
  }
  if (bpf_prog_test_run_opts(program, &options) != 0) {
    MakeError(env, LastFailure("bpf_prog_test_run")).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("result", options.retval);
  result.Set("context", Napi::Buffer<std::uint8_t>::Copy(env, context.data(), context.size()));
  return result;
}

}  // namespace sidestep
