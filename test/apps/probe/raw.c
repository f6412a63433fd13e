// `probe rawsyn` and `probe spoofudp`: packets that no socket call made, as a pod with CAP_NET_RAW could send them. They
// go out by a raw IP socket or straight to the device; the answer, if any, is read from a raw socket.
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "packet.h"
#include "probe.h"

static int send_by_raw_ip(const struct packet *packet, const struct endpoint *to) {
  const int fd = socket(to->addr.ss_family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
  if (fd < 0) return errno;
  // The destination of a raw IPv6 socket must not carry a port.
  struct endpoint bare = *to;
  ((struct sockaddr_in *)&bare.addr)->sin_port = 0;
  const ssize_t count = sendto(fd, packet->bytes, packet->length, 0, (struct sockaddr *)&bare.addr, bare.length);
  const int code = count < 0 ? errno : 0;
  close(fd);
  return code;
}

// Straight to the device, past routing and past the queueing layer.
static int send_by_device(const struct packet *packet, int family, const char *device, const unsigned char gateway[6]) {
  struct ether_header header = {.ether_type = htons(family == AF_INET ? ETHERTYPE_IP : ETHERTYPE_IPV6)};
  struct ifreq request = {0};
  unsigned char frame[sizeof header + packet_limit];
  const int on = 1;
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  int code = 0;
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
  if (ioctl(fd, SIOCGIFHWADDR, &request) != 0) {
    code = errno;
  } else {
    memcpy(header.ether_shost, request.ifr_hwaddr.sa_data, 6);
    memcpy(header.ether_dhost, gateway, 6);
    memcpy(frame, &header, sizeof header);
    memcpy(frame + sizeof header, packet->bytes, packet->length);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(device), .sll_halen = 6};
    memcpy(to.sll_addr, gateway, 6);
    if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on) != 0 ||
        sendto(fd, frame, sizeof header + packet->length, 0, (struct sockaddr *)&to, sizeof to) < 0) {
      code = errno;
    }
  }
  close(fd);
  return code;
}

// What came back from `to` to the port of `from` before the deadline: "synAck", "rst" or "none".
static const char *await_reply(int fd, const struct endpoint *from, const struct endpoint *to, int64_t deadline) {
  while (wait_for(fd, POLLIN, deadline)) {
    unsigned char bytes[2048];
    struct tcphdr tcp;
    struct endpoint source = {.length = sizeof source.addr};
    const ssize_t count = recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&source.addr, &source.length);
    // Raw IPv4 sockets see the IP header, raw IPv6 sockets do not.
    const size_t skip = count > 0 && from->addr.ss_family == AF_INET ? (size_t)(bytes[0] & 0xf) * 4 : 0;
    if (count < 0 || (size_t)count < skip + sizeof tcp) continue;
    memcpy(&tcp, bytes + skip, sizeof tcp);
    ((struct sockaddr_in *)&source.addr)->sin_port = tcp.source;
    if (ntohs(tcp.dest) != endpoint_port(from) || !endpoint_equal(&source, to)) continue;
    if (tcp.rst) return "rst";
    if (tcp.syn && tcp.ack) return "synAck";
  }
  return "none";
}

static bool parse_mac(const char *text, unsigned char out[6]) {
  unsigned parts[6];
  if (sscanf(text, "%x:%x:%x:%x:%x:%x", &parts[0], &parts[1], &parts[2], &parts[3], &parts[4], &parts[5]) != 6) return false;
  for (int i = 0; i < 6; i++) {
    if (parts[i] > 255) return false;
    out[i] = (unsigned char)parts[i];
  }
  return true;
}

static bool parse_pair(const char *from_ip, const char *from_port, const char *to_ip, const char *to_port, struct endpoint *from,
                       struct endpoint *to, const char **reason) {
  if (!endpoint_parse(from_ip, from_port, from, reason) || !endpoint_parse(to_ip, to_port, to, reason)) return false;
  *reason = "both addresses must be of one family";
  return from->addr.ss_family == to->addr.ss_family;
}

int run_rawsyn(int argc, char **argv) {
  enum { payload_option = 1, packet_option, device_option, wait_option };
  static const struct option options[] = {
      {"payload", 1, 0, payload_option}, {"packet", 1, 0, packet_option}, {"dev", 1, 0, device_option},
      {"wait", 1, 0, wait_option}, {0, 0, 0, 0}};
  const char *payload = "";
  const char *device = "eth0";
  const char *reason = "";
  unsigned char gateway[6];
  bool by_device = false;
  int64_t wait_ms = 1000;
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    switch (option) {
      case payload_option: payload = optarg; break;
      case packet_option:
        if (!parse_mac(optarg, gateway)) return usage_error("rawsyn", "--packet takes the gateway's MAC address");
        by_device = true;
        break;
      case device_option: device = optarg; break;
      case wait_option: wait_ms = (int64_t)parse_number("rawsyn", optarg); break;
      default: return usage_error("rawsyn", "unknown option");
    }
  }
  struct endpoint from;
  struct endpoint to;
  if (argc - optind != 4) return usage_error("rawsyn", "SRCIP SPORT DSTIP DPORT were expected");
  if (!parse_pair(argv[optind], argv[optind + 1], argv[optind + 2], argv[optind + 3], &from, &to, &reason)) {
    return usage_error("rawsyn", reason);
  }

  struct packet packet;
  struct json json = {0};
  packet_tcp_syn(&packet, &from, &to, (uint32_t)now_ns(), payload);
  json_object(&json, NULL);
  json_text(&json, "command", "rawsyn");
  const int listener = socket(from.addr.ss_family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_TCP);
  if (listener < 0) return finish_failed(&json, "socket", errno);
  const int code = by_device ? send_by_device(&packet, from.addr.ss_family, device, gateway) : send_by_raw_ip(&packet, &to);
  if (code == 0) json_text(&json, "reply", await_reply(listener, &from, &to, now_ns() + wait_ms * 1000000));
  close(listener);
  return code == 0 ? finish_ok(&json) : finish_failed(&json, "send", code);
}

int run_spoofudp(int argc, char **argv) {
  static const struct option options[] = {{"sport", 1, 0, 1}, {"payload", 1, 0, 2}, {0, 0, 0, 0}};
  const char *payload = "spoofed";
  const char *from_port = "40000";
  const char *reason = "";
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option == 1) from_port = optarg;
    else if (option == 2) payload = optarg;
    else return usage_error("spoofudp", "unknown option");
  }
  struct endpoint from;
  struct endpoint to;
  if (argc - optind != 3) return usage_error("spoofudp", "SRCIP DSTIP PORT were expected");
  if (!parse_pair(argv[optind], from_port, argv[optind + 1], argv[optind + 2], &from, &to, &reason)) {
    return usage_error("spoofudp", reason);
  }
  struct packet packet;
  struct json json = {0};
  packet_udp(&packet, &from, &to, payload);
  json_object(&json, NULL);
  json_text(&json, "command", "spoofudp");
  const int code = send_by_raw_ip(&packet, &to);
  return code == 0 ? finish_ok(&json) : finish_failed(&json, "send", code);
}
