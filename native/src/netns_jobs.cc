#include "netns_jobs.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arguments.h"
#include "bpf_link.h"
#include "netlink.h"
#include "netns_thread.h"
#include "owned_fd.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

namespace sidestep {
namespace {

using Ip = std::array<std::uint8_t, 16>;

template <typename Job, typename... Args>
Napi::Value PostJob(const Napi::CallbackInfo& info, Args... args) {
  NetnsThread* thread = NetnsThread::Of(info.Env());
  if (thread == nullptr) return info.Env().Undefined();
  return thread->Post(info[0], std::make_unique<Job>(std::move(args)...));
}

class InfoJob : public NetnsJob {
 public:
  void Run() override {
    UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    socklen_t length = sizeof(cookie_);
    if (!fd.IsOpen() || getsockopt(fd.Get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie_, &length) != 0) {
      failure_ = LastFailure("getsockopt SO_NETNS_COOKIE");
      return;
    }
    struct stat status{};
    if (fstat(netns_.Get(), &status) != 0) {
      failure_ = LastFailure("fstat");
      return;
    }
    inode_ = status.st_ino;
  }

  Napi::Value Result(Napi::Env env) override {
    Napi::Object result = Napi::Object::New(env);
    result.Set("cookie", Napi::BigInt::New(env, cookie_));
    result.Set("inode", Napi::BigInt::New(env, inode_));
    return result;
  }

 private:
  std::uint64_t cookie_ = 0;
  std::uint64_t inode_ = 0;
};

struct Link {
  std::uint32_t index = 0;
  std::uint32_t peer_index = 0;
  bool is_up = false;
  std::string name;
};

class LinksJob : public NetnsJob {
 public:
  void Run() override {
    NetlinkRequest request(RTM_GETLINK, NLM_F_DUMP);
    ifinfomsg head{};
    request.Append(&head, sizeof(head));
    failure_ = request.Exchange(NETLINK_ROUTE, [this](const nlmsghdr* message) { Read(message); });
  }

  Napi::Value Result(Napi::Env env) override {
    Napi::Array result = Napi::Array::New(env, links_.size());
    for (std::uint32_t i = 0; i < links_.size(); i++) {
      Napi::Object link = Napi::Object::New(env);
      link.Set("index", links_[i].index);
      link.Set("peerIndex", links_[i].peer_index);
      link.Set("name", links_[i].name);
      link.Set("isUp", links_[i].is_up);
      result.Set(i, link);
    }
    return result;
  }

 private:
  void Read(const nlmsghdr* message) {
    if (message->nlmsg_type != RTM_NEWLINK) return;
    const auto* head = static_cast<const ifinfomsg*>(NLMSG_DATA(message));
    Link link;
    link.index = static_cast<std::uint32_t>(head->ifi_index);
    link.is_up = (head->ifi_flags & IFF_UP) != 0;
    bool leads_out = false;
    auto left = static_cast<int>(IFLA_PAYLOAD(message));
    for (const auto* attribute = IFLA_RTA(head); RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
      if (attribute->rta_type == IFLA_LINK) std::memcpy(&link.peer_index, RTA_DATA(attribute), sizeof(link.peer_index));
      if (attribute->rta_type == IFLA_LINK_NETNSID) leads_out = true;
      if (attribute->rta_type == IFLA_IFNAME) link.name = static_cast<const char*>(RTA_DATA(attribute));
    }
    if (!leads_out) link.peer_index = 0;  // a lower device of this namespace (VLAN, macvlan), not a peer in another
    links_.push_back(std::move(link));
  }

  std::vector<Link> links_;
};

/** Addresses by which others reach the namespace: of global scope, in use, not on a loopback interface. */
class AddressesJob : public NetnsJob {
 public:
  void Run() override {
    NetlinkRequest request(RTM_GETADDR, NLM_F_DUMP);
    ifaddrmsg head{};
    request.Append(&head, sizeof(head));
    failure_ = request.Exchange(NETLINK_ROUTE, [this](const nlmsghdr* message) { Read(message); });
  }

  Napi::Value Result(Napi::Env env) override {
    Napi::Array result = Napi::Array::New(env, addresses_.size());
    for (std::uint32_t i = 0; i < addresses_.size(); i++) {
      Napi::Object address = Napi::Object::New(env);
      address.Set("index", addresses_[i].first);
      address.Set("ip", Napi::Buffer<std::uint8_t>::Copy(env, addresses_[i].second.data(), addresses_[i].second.size()));
      result.Set(i, address);
    }
    return result;
  }

 private:
  void Read(const nlmsghdr* message) {
    if (message->nlmsg_type != RTM_NEWADDR) return;
    const auto* head = static_cast<const ifaddrmsg*>(NLMSG_DATA(message));
    static constexpr std::uint32_t kLoopbackIndex = 1;  // in every namespace
    static constexpr std::uint32_t kNotInUse = IFA_F_TENTATIVE | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TEMPORARY;
    if (head->ifa_scope != RT_SCOPE_UNIVERSE || head->ifa_index == kLoopbackIndex) return;
    const std::size_t size = head->ifa_family == AF_INET6 ? 16 : 4;
    // IPv4: of a point-to-point pair IFA_LOCAL is ours. IFA_F_TEMPORARY has the value of IPv4's "secondary", as unfit.
    std::uint32_t flags = head->ifa_flags;
    const rtattr* ours = nullptr;
    auto left = static_cast<int>(IFA_PAYLOAD(message));
    for (const auto* attribute = IFA_RTA(head); RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
      if (attribute->rta_type == IFA_LOCAL || (attribute->rta_type == IFA_ADDRESS && ours == nullptr)) ours = attribute;
      if (attribute->rta_type == IFA_FLAGS) std::memcpy(&flags, RTA_DATA(attribute), sizeof(flags));
    }
    if (ours == nullptr || RTA_PAYLOAD(ours) != size || (flags & kNotInUse) != 0) return;
    Ip ip{};
    if (size == 4) ip[10] = ip[11] = 0xff;
    std::memcpy(ip.data() + 16 - size, RTA_DATA(ours), size);
    addresses_.emplace_back(head->ifa_index, ip);
  }

  std::vector<std::pair<std::uint32_t, Ip>> addresses_;
};

/** A container without `privileged` has /proc/sys read-only. Who may set what is in there in another namespace may mount a /proc
 *  as well: one of our own, on no path, so that nobody else gets to see it. Which namespace's values it has is decided by who
 *  opens a file in it, as always. */
int OwnProc() {
  static const UniqueFd kProc = [] {
    UniqueFd context(fsopen("proc", FSOPEN_CLOEXEC));
    if (!context.IsOpen() || fsconfig(context.Get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return UniqueFd();
    return UniqueFd(fsmount(context.Get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV));
  }();
  return kProc.Get();
}

/** `path` is below /proc/sys. */
UniqueFd OpenSysctl(const char* path) {
  static constexpr std::string_view kProc = "/proc/";
  UniqueFd fd(open(path, O_WRONLY | O_CLOEXEC));
  if (fd.IsOpen() || errno != EROFS) return fd;
  const int proc = OwnProc();
  if (proc >= 0) fd.Reset(openat(proc, path + kProc.size(), O_WRONLY | O_CLOEXEC));
  else errno = EROFS;
  return fd;
}

/** Answers of the application to a client address that is not ours must come back to the ztunnel's socket: accepted
 *  sockets take the mark of the SYN, a rule sends that mark to a table, and the table says that all is local. */
class ReturnPathJob : public NetnsJob {
 public:
  ReturnPathJob(std::uint32_t mark, std::uint32_t table, std::uint32_t priority, bool install)
      : mark_(mark), table_(table), priority_(priority), install_(install) {}

  void Run() override {
    // Accepted sockets keep the mark, and so do the resets that a closed port answers with.
    const char* value = install_ ? "1" : "0";
    if (!WriteSysctl("/proc/sys/net/ipv4/tcp_fwmark_accept", value, false)) return;
    if (!WriteSysctl("/proc/sys/net/ipv4/fwmark_reflect", value, false)) return;
    if (!WriteSysctl("/proc/sys/net/ipv6/fwmark_reflect", value, true)) return;
    // Whatever a pod connects to, it now connects to one listener: clients that close first would run out of ports by
    // TIME_WAIT earlier than without us. 1: a port may serve again after a second, which timestamps make safe; 2, the
    // kernel's default: on loopback addresses only.
    if (!WriteSysctl("/proc/sys/net/ipv4/tcp_tw_reuse", install_ ? "1" : "2", false)) return;
    for (const std::uint8_t family : {AF_INET, AF_INET6}) {
      // A namespace without IPv6 has nothing to return there.
      const bool optional = family == AF_INET6;
      if (!Change(Rule(family), optional) || !Change(Route(family), optional)) return;
    }
  }

  Napi::Value Result(Napi::Env env) override { return env.Undefined(); }

 private:
  bool WriteSysctl(const char* path, const char* value, bool optional) {
    const UniqueFd fd = OpenSysctl(path);
    if (fd.IsOpen() && write(fd.Get(), value, 1) == 1) return true;
    if (optional && !fd.IsOpen() && errno == ENOENT) return true;
    failure_ = LastFailure("write", path);
    return false;
  }

  [[nodiscard]] std::uint16_t Flags() const {
    return static_cast<std::uint16_t>(NLM_F_ACK | (install_ ? NLM_F_CREATE | NLM_F_EXCL : 0));
  }

  NetlinkRequest Rule(std::uint8_t family) const {
    NetlinkRequest request(install_ ? RTM_NEWRULE : RTM_DELRULE, Flags());
    fib_rule_hdr head{};
    head.family = family;
    head.table = RT_TABLE_UNSPEC;
    head.action = FR_ACT_TO_TBL;
    request.Append(&head, sizeof(head));
    request.Attribute(FRA_FWMARK, mark_);
    request.Attribute(FRA_FWMASK, 0xffffffffU);
    request.Attribute(FRA_TABLE, table_);
    request.Attribute(FRA_PRIORITY, priority_);
    return request;
  }

  NetlinkRequest Route(std::uint8_t family) const {
    NetlinkRequest request(install_ ? RTM_NEWROUTE : RTM_DELROUTE, Flags());
    rtmsg head{};
    head.rtm_family = family;
    head.rtm_table = RT_TABLE_UNSPEC;
    head.rtm_protocol = RTPROT_STATIC;
    head.rtm_scope = RT_SCOPE_HOST;
    head.rtm_type = RTN_LOCAL;
    request.Append(&head, sizeof(head));
    request.Attribute(RTA_TABLE, table_);
    request.Attribute(RTA_OIF, 1);  // lo has index 1 in every namespace
    return request;
  }

  bool Change(NetlinkRequest request, bool optional) {
    const Failure failure = request.Exchange(NETLINK_ROUTE, [](const nlmsghdr*) {});
    const bool is_done = !failure || failure.error == (install_ ? EEXIST : ENOENT) || (!install_ && failure.error == ESRCH);
    if (is_done || optional) return true;
    failure_ = failure;
    return false;
  }

  std::uint32_t mark_;
  std::uint32_t table_;
  std::uint32_t priority_;
  bool install_;
};

struct Endpoint {
  Ip ip{};
  std::uint16_t port = 0;
};

Ip FoldedIp(std::uint8_t family, const std::uint32_t* words) {
  Ip ip{};
  if (family == AF_INET) {
    ip[10] = ip[11] = 0xff;
    std::memcpy(ip.data() + 12, words, 4);
  } else {
    std::memcpy(ip.data(), words, 16);
  }
  return ip;
}

Napi::Object EndpointObject(Napi::Env env, const Endpoint& endpoint) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("ip", Napi::Buffer<std::uint8_t>::Copy(env, endpoint.ip.data(), endpoint.ip.size()));
  result.Set("port", endpoint.port);
  return result;
}

struct Connection {
  Endpoint source;
  Endpoint destination;
  std::uint64_t cookie = 0;
  std::uint32_t mark = 0;
};

class ListSocketsJob : public NetnsJob {
 public:
  explicit ListSocketsJob(bool listening) : states_(listening ? 1U << TCP_LISTEN : 1U << TCP_ESTABLISHED) {}

  void Run() override {
    for (const std::uint8_t family : {AF_INET, AF_INET6}) {
      NetlinkRequest request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP);
      inet_diag_req_v2 head{};
      head.sdiag_family = family;
      head.sdiag_protocol = IPPROTO_TCP;
      head.idiag_states = states_;
      request.Append(&head, sizeof(head));
      failure_ = request.Exchange(NETLINK_SOCK_DIAG, [this](const nlmsghdr* message) { Read(message); });
      if (failure_) return;
    }
  }

  Napi::Value Result(Napi::Env env) override {
    Napi::Array result = Napi::Array::New(env, connections_.size());
    for (std::uint32_t i = 0; i < connections_.size(); i++) {
      const Connection& connection = connections_[i];
      Napi::Object item = Napi::Object::New(env);
      item.Set("source", EndpointObject(env, connection.source));
      item.Set("destination", EndpointObject(env, connection.destination));
      item.Set("cookie", Napi::BigInt::New(env, connection.cookie));
      item.Set("mark", connection.mark);
      result.Set(i, item);
    }
    return result;
  }

 private:
  void Read(const nlmsghdr* message) {
    if (message->nlmsg_type != SOCK_DIAG_BY_FAMILY) return;
    const auto* found = static_cast<const inet_diag_msg*>(NLMSG_DATA(message));
    Connection connection;
    connection.source = {FoldedIp(found->idiag_family, found->id.idiag_src), ntohs(found->id.idiag_sport)};
    connection.destination = {FoldedIp(found->idiag_family, found->id.idiag_dst), ntohs(found->id.idiag_dport)};
    connection.cookie = found->id.idiag_cookie[0] | static_cast<std::uint64_t>(found->id.idiag_cookie[1]) << 32U;
    auto left = static_cast<int>(message->nlmsg_len - NLMSG_LENGTH(sizeof(*found)));
    for (const auto* attribute = reinterpret_cast<const rtattr*>(found + 1); RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
      if (attribute->rta_type == INET_DIAG_MARK) std::memcpy(&connection.mark, RTA_DATA(attribute), sizeof(connection.mark));
    }
    connections_.push_back(connection);
  }

  std::uint32_t states_;
  std::vector<Connection> connections_;
};

class DestroySocketJob : public NetnsJob {
 public:
  DestroySocketJob(Endpoint source, Endpoint destination) : source_(source), destination_(destination) {}

  void Run() override {
    static constexpr std::uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    const bool is_ip4 = std::memcmp(source_.ip.data(), kMapped, sizeof(kMapped)) == 0;
    // The socket may be an IPv6 one that speaks IPv4 (mapped), so both are tried.
    for (const std::uint8_t family : {AF_INET, AF_INET6}) {
      if (family == AF_INET && !is_ip4) continue;
      if (Destroy(family, family == AF_INET ? 12 : 0)) was_there_ = true;
      if (failure_ || was_there_) return;
    }
  }

  Napi::Value Result(Napi::Env env) override { return Napi::Boolean::New(env, was_there_); }

 private:
  bool Destroy(std::uint8_t family, std::size_t offset) {
    NetlinkRequest request(SOCK_DESTROY, NLM_F_ACK);
    inet_diag_req_v2 head{};
    head.sdiag_family = family;
    head.sdiag_protocol = IPPROTO_TCP;
    head.idiag_states = 0xffffffffU;
    head.id.idiag_sport = htons(source_.port);
    head.id.idiag_dport = htons(destination_.port);
    std::memcpy(head.id.idiag_src, source_.ip.data() + offset, 16 - offset);
    std::memcpy(head.id.idiag_dst, destination_.ip.data() + offset, 16 - offset);
    head.id.idiag_cookie[0] = head.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    request.Append(&head, sizeof(head));
    const Failure failure = request.Exchange(NETLINK_SOCK_DIAG, [](const nlmsghdr*) {});
    if (failure && failure.error != ENOENT) failure_ = Failure{failure.error, "SOCK_DESTROY", failure.detail};
    return !failure;
  }

  Endpoint source_;
  Endpoint destination_;
  bool was_there_ = false;
};

class LinkCreateJob : public NetnsJob {
 public:
  LinkCreateJob(UniqueFd program, std::uint32_t ifindex, std::uint32_t type)
      : program_(std::move(program)), ifindex_(ifindex), type_(type) {}

  void Run() override {
    link_.Reset(bpf_link_create(program_.Get(), static_cast<int>(ifindex_), static_cast<bpf_attach_type>(type_), nullptr));
    if (!link_.IsOpen()) failure_ = LastFailure("bpf_link_create", "interface " + std::to_string(ifindex_));
  }

  Napi::Value Result(Napi::Env env) override { return OwnedFd::New(env, std::move(link_)); }

 private:
  UniqueFd program_;
  std::uint32_t ifindex_;
  std::uint32_t type_;
  UniqueFd link_;
};

bool ReadEndpoint(const Napi::Object& options, const char* name, Endpoint* endpoint) {
  Napi::Value value;
  Napi::Object object;
  Napi::Value ip;
  Napi::Value port;
  std::uint32_t number = 0;
  if (!GetField(options, name, &value) || !ReadObject(value, name, &object)) return false;
  if (!GetField(object, "port", &port) || !ReadUint32(port, "port", &number, UINT16_MAX)) return false;
  Bytes bytes;
  if (!GetField(object, "ip", &ip) || !ReadBytes(ip, "ip", &bytes)) return false;
  if (bytes.size() != endpoint->ip.size()) return ThrowExpected(value.Env(), "ip", "16 bytes");
  std::memcpy(endpoint->ip.data(), bytes.data(), bytes.size());
  endpoint->port = static_cast<std::uint16_t>(number);
  return true;
}

}  // namespace

Napi::Value NetnsInfo(const Napi::CallbackInfo& info) { return PostJob<InfoJob>(info); }

Napi::Value NetnsLinks(const Napi::CallbackInfo& info) { return PostJob<LinksJob>(info); }

Napi::Value NetnsAddresses(const Napi::CallbackInfo& info) { return PostJob<AddressesJob>(info); }

Napi::Value SetReturnPath(const Napi::CallbackInfo& info) {
  Napi::Object options;
  std::uint32_t mark = 0;
  std::uint32_t table = 0;
  std::uint32_t priority = 0;
  bool install = false;
  const bool is_right = ReadObject(info[1], "options", &options) && ReadOptionalUint32(options, "mark", &mark) &&
                        ReadOptionalUint32(options, "table", &table) && ReadOptionalUint32(options, "priority", &priority) &&
                        ReadOptionalBool(options, "install", &install);
  if (!is_right) return info.Env().Undefined();
  return PostJob<ReturnPathJob>(info, mark, table, priority, install);
}

Napi::Value LinkCreateIn(const Napi::CallbackInfo& info) {
  std::uint32_t ifindex = 0;
  std::uint32_t type = 0;
  if (OwnedFd::FdOf(info[0]) < 0 || !ReadUint32(info[2], "ifindex", &ifindex, INT32_MAX) ||
      !ReadUint32(info[3], "attachType", &type, kMaxAttachType))
    return info.Env().Undefined();
  UniqueFd program = OwnedFd::DuplicateOf(info[1]);
  if (!program.IsOpen()) return info.Env().Undefined();
  return PostJob<LinkCreateJob>(info, std::move(program), ifindex, type);
}

Napi::Value ListSockets(const Napi::CallbackInfo& info) {
  return PostJob<ListSocketsJob>(info, info[1].IsBoolean() && info[1].As<Napi::Boolean>().Value());
}

Napi::Value DestroySocket(const Napi::CallbackInfo& info) {
  Napi::Object options;
  Endpoint source;
  Endpoint destination;
  if (!ReadObject(info[1], "connection", &options) || !ReadEndpoint(options, "source", &source) ||
      !ReadEndpoint(options, "destination", &destination))
    return info.Env().Undefined();
  return PostJob<DestroySocketJob>(info, source, destination);
}

}  // namespace sidestep
