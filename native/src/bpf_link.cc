#include "bpf_link.h"

#include <bpf/bpf.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <vector>

#include "arguments.h"
#include "bpf_kind.h"
#include "errors.h"
#include "owned_fd.h"

namespace sidestep {
namespace {

/** BPF_LINK_TYPE_TCX, which older headers do not have. */
constexpr std::uint32_t kTcxLink = 11;

/** Each kind names its target by another field, which is 0 when the link was taken off or its target is gone. */
bool IsAttached(const bpf_link_info& info) {
  switch (info.type) {
    case BPF_LINK_TYPE_CGROUP:
      return info.cgroup.cgroup_id != 0;
    case BPF_LINK_TYPE_NETNS:
      return info.netns.netns_ino != 0;
    case kTcxLink:
      return info.xdp.ifindex != 0;  // tcx.ifindex is at the same place
    default:
      return true;
  }
}

}  // namespace

Napi::Value LinkCreate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int program = OwnedFd::FdOf(info[0]);
  if (program < 0) return env.Undefined();
  int target = -1;
  if (info[1].IsNumber()) {
    std::uint32_t ifindex = 0;
    if (!ReadUint32(info[1], "ifindex", &ifindex, INT32_MAX)) return env.Undefined();
    target = static_cast<int>(ifindex);
  } else {
    target = OwnedFd::FdOf(info[1]);
  }
  std::uint32_t type = 0;
  if (target < 0 || !ReadUint32(info[2], "attachType", &type, kMaxAttachType)) return env.Undefined();
  UniqueFd link(bpf_link_create(program, target, static_cast<bpf_attach_type>(type), nullptr));
  if (link.IsOpen()) return OwnedFd::New(env, std::move(link));
  Throw(env, LastFailure("bpf_link_create", "attach type " + std::to_string(type)));
  return env.Undefined();
}

void LinkUpdate(const Napi::CallbackInfo& info) {
  const int link = OwnedFd::FdOf(info[0]);
  const int program = link < 0 ? -1 : OwnedFd::FdOf(info[1]);
  if (program < 0) return;
  if (bpf_link_update(link, program, nullptr) != 0) Throw(info.Env(), LastFailure("bpf_link_update"));
}

void LinkDetach(const Napi::CallbackInfo& info) {
  const int link = OwnedFd::FdOf(info[0]);
  if (link >= 0 && bpf_link_detach(link) != 0) Throw(info.Env(), LastFailure("bpf_link_detach"));
}

Napi::Value LinkInfo(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int link = OwnedFd::FdOf(info[0]);
  if (link < 0) return env.Undefined();
  if (!IsBpfLink(link)) {
    Throw(env, LastFailure("link", "the descriptor is not a link"));
    return env.Undefined();
  }
  bpf_link_info found{};
  std::uint32_t length = sizeof(found);
  if (bpf_obj_get_info_by_fd(link, &found, &length) != 0) {
    Throw(env, LastFailure("bpf_obj_get_info_by_fd"));
    return env.Undefined();
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("id", found.id);
  result.Set("programId", found.prog_id);
  result.Set("type", found.type);
  result.Set("isAttached", IsAttached(found));
  return result;
}

void Pin(const Napi::CallbackInfo& info) {
  const int fd = OwnedFd::FdOf(info[0]);
  std::string path;
  if (fd < 0 || !ReadString(info[1], "path", &path)) return;
  if (bpf_obj_pin(fd, path.c_str()) != 0) Throw(info.Env(), LastFailure("bpf_obj_pin", path));
}

Napi::Value GetPinned(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path;
  if (!ReadString(info[0], "path", &path)) return env.Undefined();
  UniqueFd fd(bpf_obj_get(path.c_str()));
  if (fd.IsOpen()) return OwnedFd::New(env, std::move(fd));
  if (errno != ENOENT) Throw(env, LastFailure("bpf_obj_get", path));
  return env.Undefined();
}

Napi::Value ProgramTestRun(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int program = OwnedFd::FdOf(info[0]);
  if (program < 0) return env.Undefined();
  LIBBPF_OPTS(bpf_test_run_opts, options);
  Bytes data;
  Bytes given_context;
  if (!info[1].IsUndefined()) {
    if (!ReadBytes(info[1], "data", &data)) return env.Undefined();
    options.data_in = data.data();
    options.data_size_in = static_cast<std::uint32_t>(data.size());
    options.repeat = 1;
  }
  std::vector<std::uint8_t> context;
  if (!info[2].IsUndefined()) {
    if (!ReadBytes(info[2], "context", &given_context)) return env.Undefined();
    context.assign(given_context.begin(), given_context.end());
    options.ctx_in = context.data();
    options.ctx_size_in = static_cast<std::uint32_t>(context.size());
    options.ctx_out = context.data();
    options.ctx_size_out = static_cast<std::uint32_t>(context.size());
  }
  if (bpf_prog_test_run_opts(program, &options) != 0) {
    Throw(env, LastFailure("bpf_prog_test_run"));
    return env.Undefined();
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("result", options.retval);
  result.Set("context", Napi::Buffer<std::uint8_t>::Copy(env, context.data(), context.size()));
  return result;
}

}  // namespace sidestep
