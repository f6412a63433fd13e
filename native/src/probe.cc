#include "probe.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/fib_rules.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "arguments.h"
#include "deferred.h"
#include "errors.h"
#include "netlink.h"
#include "unique_fd.h"

namespace sidestep {
namespace {

struct Hook {
  const char* name;
  bpf_prog_type type;
  bpf_attach_type attach;
};

constexpr bpf_attach_type kNoAttach{};

// Where somebody else's programs would run before or after ours: those that CgroupPrograms lists.
constexpr std::array kCgroupHooks{
    Hook{"connect4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT},
    Hook{"connect6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_CONNECT},
    Hook{"getpeername4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_GETPEERNAME},
    Hook{"getpeername6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_GETPEERNAME},
    Hook{"sendmsg4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP4_SENDMSG},
    Hook{"sendmsg6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP6_SENDMSG},
    Hook{"recvmsg4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP4_RECVMSG},
    Hook{"recvmsg6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP6_RECVMSG},
    Hook{"sock_create", BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_CREATE},
    Hook{"sockops", BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS},
};

constexpr std::array kOtherHooks{
    Hook{"sk_lookup", BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP},
    Hook{"sk_msg", BPF_PROG_TYPE_SK_MSG, BPF_SK_MSG_VERDICT},
    Hook{"tc", BPF_PROG_TYPE_SCHED_CLS, kNoAttach},
};

struct Helper {
  const char* name;
  bpf_prog_type type;
  bpf_attach_type attach;
  std::int32_t id;
};

constexpr std::array kHelpers{
    Helper{"sock_addr/netns_cookie", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, BPF_FUNC_get_netns_cookie},
    Helper{"sock_addr/sk_storage", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, BPF_FUNC_sk_storage_get},
    Helper{"sock_addr/bind", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, BPF_FUNC_bind},
    Helper{"sock_addr/set_retval", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, BPF_FUNC_set_retval},
    Helper{"sock_addr/ringbuf", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, BPF_FUNC_ringbuf_reserve},
    Helper{"sock/netns_cookie", BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_CREATE, BPF_FUNC_get_netns_cookie},
    Helper{"sockops/netns_cookie", BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, BPF_FUNC_get_netns_cookie},
    Helper{"sockops/sk_storage", BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, BPF_FUNC_sk_storage_get},
    Helper{"sock/set_retval", BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_CREATE, BPF_FUNC_set_retval},
    Helper{"sock_addr/cgroup_id", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, BPF_FUNC_get_current_cgroup_id},
    Helper{"tc/sk_storage", BPF_PROG_TYPE_SCHED_CLS, kNoAttach, BPF_FUNC_sk_storage_get},
    Helper{"tc/sk_fullsock", BPF_PROG_TYPE_SCHED_CLS, kNoAttach, BPF_FUNC_sk_fullsock},
    Helper{"sk_lookup/sk_assign", BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, BPF_FUNC_sk_assign},
    Helper{"sk_msg/redirect_hash", BPF_PROG_TYPE_SK_MSG, BPF_SK_MSG_VERDICT, BPF_FUNC_msg_redirect_hash},
};

struct Map {
  const char* name;
  bpf_map_type type;
};

constexpr std::array kMaps{
    Map{"hash", BPF_MAP_TYPE_HASH},         Map{"lru_hash", BPF_MAP_TYPE_LRU_HASH},
    Map{"lpm_trie", BPF_MAP_TYPE_LPM_TRIE}, Map{"percpu_array", BPF_MAP_TYPE_PERCPU_ARRAY},
    Map{"sockhash", BPF_MAP_TYPE_SOCKHASH}, Map{"sk_storage", BPF_MAP_TYPE_SK_STORAGE},
    Map{"ringbuf", BPF_MAP_TYPE_RINGBUF},
};

constexpr bpf_insn kReturnOne[] = {
    {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1},
    {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
};

// Every hook of ours takes 1 as "go on", so one program fits all.
int LoadProgram(bpf_prog_type type, bpf_attach_type attach, const bpf_insn* insns, size_t count, char* log, size_t log_size) {
  LIBBPF_OPTS(bpf_prog_load_opts, opts);
  opts.expected_attach_type = attach;
  if (log != nullptr) {
    opts.log_buf = log;
    opts.log_size = static_cast<std::uint32_t>(log_size);
    opts.log_level = 1;
  }
  int fd = bpf_prog_load(type, "sidestep_probe", "Dual BSD/GPL", insns, count, &opts);
  if (fd < 0) return -fd;
  close(fd);
  return 0;
}

int ProbeHook(const Hook& hook) {
  return LoadProgram(hook.type, hook.attach, kReturnOne, std::size(kReturnOne), nullptr, 0);
}

// Calls the helper without arguments. The verifier refuses that one way or the other; its log says whether it knew the
// helper for this type of program at all. The wording changed in 6.10, and libbpf 1.1 knows only the older one.
int ProbeHelper(const Helper& helper) {
  const bpf_insn insns[] = {
      {BPF_JMP | BPF_CALL, 0, 0, 0, helper.id},
      kReturnOne[0],
      kReturnOne[1],
  };
  std::array<char, 4096> log{};
  int error = LoadProgram(helper.type, helper.attach, insns, std::size(insns), log.data(), log.size());
  if (error == 0) return 0;
  if (log[0] == '\0') return error;  // refused before the verifier looked: the program type or the privilege
  for (const char* unknown : {"unknown func ", "invalid func ", "cannot use helper "}) {
    if (std::strstr(log.data(), unknown) != nullptr) return EOPNOTSUPP;
  }
  return 0;
}

int ProbeMap(const Map& map) {
  int known = libbpf_probe_bpf_map_type(map.type, nullptr);
  if (known < 0) return -known;
  return known == 1 ? 0 : EINVAL;
}

// Asking for what is attached answers whether the attach point exists, without attaching.
int ProbeTcx() {
  constexpr auto kTcxIngress = static_cast<bpf_attach_type>(46);  // BPF_TCX_INGRESS; Debian 12's headers are older than 6.6
  constexpr int kLoopbackIndex = 1;
  std::uint32_t ids[1];
  std::uint32_t count = 0;
  int error = bpf_prog_query(kLoopbackIndex, kTcxIngress, 0, nullptr, ids, &count);
  return error < 0 ? -error : 0;
}

int ProbeSocketOption(int family, int level, int option) {
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.IsOpen()) return errno;
  int one = 1;
  return setsockopt(fd.Get(), level, option, &one, sizeof(one)) == 0 ? 0 : errno;
}

int ProbeNetnsCookie() {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.IsOpen()) return errno;
  std::uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  return getsockopt(fd.Get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) == 0 ? 0 : errno;
}

// Zero if the kernel answers, whatever it answers.
int AskNetlink(int protocol, std::uint16_t type, std::uint16_t flags, const void* body, std::size_t size) {
  NetlinkRequest request(type, flags);
  request.Append(body, size);
  return request.Exchange(protocol, [](const nlmsghdr*) {}).error;
}

int ProbeRules(std::uint8_t family) {
  fib_rule_hdr body{};
  body.family = family;
  return AskNetlink(NETLINK_ROUTE, RTM_GETRULE, NLM_F_DUMP, &body, sizeof(body));
}

// Asks to destroy a connection that cannot exist (port 0): a kernel that can looks for it and finds nothing.
int ProbeSockDestroy() {
  inet_diag_req_v2 body{};
  body.sdiag_family = AF_INET;
  body.sdiag_protocol = IPPROTO_TCP;
  body.idiag_states = ~0u;
  body.id.idiag_src[0] = body.id.idiag_dst[0] = htonl(INADDR_LOOPBACK);
  body.id.idiag_cookie[0] = body.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  const int error = AskNetlink(NETLINK_SOCK_DIAG, SOCK_DESTROY, NLM_F_ACK, &body, sizeof(body));
  return error == ENOENT ? 0 : error;
}

// The answer to one question: 0 is yes, otherwise the errno that the kernel gave.
struct Answer {
  std::string name;
  int error;
};

std::vector<Answer> AskEverything() {
  std::vector<Answer> answers;
  const auto put = [&answers](const std::string& kind, const char* name, int error) {
    answers.push_back({kind + "/" + name, error});
  };
  for (const Hook& hook : kCgroupHooks) put("program", hook.name, ProbeHook(hook));
  for (const Hook& hook : kOtherHooks) put("program", hook.name, ProbeHook(hook));
  put("program", "tcx", ProbeTcx());
  for (const Map& map : kMaps) put("map", map.name, ProbeMap(map));
  for (const Helper& helper : kHelpers) put("helper", helper.name, ProbeHelper(helper));
  put("socket", "netns_cookie", ProbeNetnsCookie());
  put("socket", "transparent4", ProbeSocketOption(AF_INET, SOL_IP, IP_TRANSPARENT));
  put("socket", "transparent6", ProbeSocketOption(AF_INET6, SOL_IPV6, IPV6_TRANSPARENT));
  put("socket", "mark", ProbeSocketOption(AF_INET, SOL_SOCKET, SO_MARK));
  put("netlink", "rules4", ProbeRules(AF_INET));
  put("netlink", "rules6", ProbeRules(AF_INET6));
  put("netlink", "sock_destroy", ProbeSockDestroy());
  return answers;
}

// Loading forty small programs takes tens of milliseconds: not on the JavaScript thread.
class ProbeWorker : public Napi::AsyncWorker {
 public:
  explicit ProbeWorker(Napi::Env env) : Napi::AsyncWorker(env), deferred_(env) {}
  [[nodiscard]] const Deferred& Promised() const { return deferred_; }

 protected:
  void Execute() override { answers_ = AskEverything(); }

  void OnOK() override {
    Napi::Object result = Napi::Object::New(Env());
    for (const Answer& answer : answers_) result.Set(answer.name, answer.error);
    deferred_.Resolve(Env(), result);
  }

  // Nothing in Execute sets an error.
  void OnError(const Napi::Error&) override { deferred_.Reject(Env(), Failure{EIO, "probe", {}}); }

 private:
  Deferred deferred_;
  std::vector<Answer> answers_;
};

}  // namespace

Napi::Value ProbeKernel(const Napi::CallbackInfo& info) {
  auto worker = std::make_unique<ProbeWorker>(info.Env());
  if (!worker->Promised().IsThere()) return info.Env().Undefined();
  const Napi::Value promise(info.Env(), worker->Promised().Promise());
  worker.release()->Queue();  // deletes itself when done
  return promise;
}

Napi::Value CgroupPrograms(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path;
  if (!ReadString(info[0], "path", &path)) return env.Undefined();
  const UniqueFd cgroup(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup.IsOpen()) {
    Throw(env, LastFailure("open", path));
    return env.Undefined();
  }
  Napi::Array result = Napi::Array::New(env);
  for (const Hook& hook : kCgroupHooks) {
    std::array<std::uint32_t, 64> ids{};  // 64 is the kernel's own limit per cgroup and hook
    std::uint32_t count = ids.size();
    // A hook that this kernel does not know has no programs.
    if (bpf_prog_query(cgroup.Get(), hook.attach, 0, nullptr, ids.data(), &count) < 0) continue;
    for (std::uint32_t i = 0; i < count && i < ids.size(); i++) {
      const UniqueFd program(bpf_prog_get_fd_by_id(ids[i]));
      if (!program.IsOpen()) continue;  // detached since
      bpf_prog_info found{};
      std::uint32_t length = sizeof(found);
      if (bpf_obj_get_info_by_fd(program.Get(), &found, &length) < 0) continue;
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("hook", hook.name);
      entry.Set("id", ids[i]);
      entry.Set("name", std::string(found.name, strnlen(found.name, sizeof(found.name))));
      result.Set(result.Length(), entry);
    }
  }
  return result;
}

}  // namespace sidestep
