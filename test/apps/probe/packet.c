// See packet.h.
#include "packet.h"

#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <string.h>

enum { payload_limit = packet_limit - 40 - 20 };

static uint32_t sum_words(const void *data, size_t length, uint32_t sum) {
  const unsigned char *bytes = data;
  for (size_t i = 0; i + 1 < length; i += 2) sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
  if (length % 2) sum += (uint32_t)bytes[length - 1] << 8;
  return sum;
}

static uint16_t fold(uint32_t sum) {
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return htons((uint16_t)~sum);
}

static const void *address_bytes(const struct endpoint *endpoint, size_t *length) {
  if (endpoint->addr.ss_family == AF_INET) {
    *length = 4;
    return &((const struct sockaddr_in *)&endpoint->addr)->sin_addr;
  }
  *length = 16;
  return &((const struct sockaddr_in6 *)&endpoint->addr)->sin6_addr;
}

static uint16_t transport_checksum(const struct endpoint *from, const struct endpoint *to, int protocol, const void *segment,
    size_t length) {
  size_t size = 0;
  uint32_t sum = (uint32_t)protocol + (uint32_t)length;
  const void *bytes = address_bytes(from, &size);
  sum = sum_words(bytes, size, sum);
  bytes = address_bytes(to, &size);
  sum = sum_words(bytes, size, sum);
  return fold(sum_words(segment, length, sum));
}

// Writes the IP header for `length` bytes of transport. Returns its own length.
static size_t put_ip_header(unsigned char *at, const struct endpoint *from, const struct endpoint *to, int protocol,
    size_t length) {
  size_t size = 0;
  if (from->addr.ss_family == AF_INET) {
    struct iphdr ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = (uint8_t)protocol,
        .tot_len = htons((uint16_t)(sizeof ip + length))};
    memcpy(&ip.saddr, address_bytes(from, &size), 4);
    memcpy(&ip.daddr, address_bytes(to, &size), 4);
    ip.check = fold(sum_words(&ip, sizeof ip, 0));
    memcpy(at, &ip, sizeof ip);
    return sizeof ip;
  }
  struct ip6_hdr ip = {0};
  ip.ip6_flow = htonl(6u << 28);
  ip.ip6_plen = htons((uint16_t)length);
  ip.ip6_nxt = (uint8_t)protocol;
  ip.ip6_hlim = 64;
  memcpy(&ip.ip6_src, address_bytes(from, &size), 16);
  memcpy(&ip.ip6_dst, address_bytes(to, &size), 16);
  memcpy(at, &ip, sizeof ip);
  return sizeof ip;
}

static size_t payload_length(const char *payload) {
  const size_t length = strlen(payload);
  return length < payload_limit ? length : payload_limit;
}

void packet_tcp_syn(struct packet *packet, const struct endpoint *from, const struct endpoint *to, uint32_t sequence,
    const char *payload) {
  unsigned char segment[sizeof(struct tcphdr) + payload_limit];
  struct tcphdr tcp = {.source = htons(endpoint_port(from)), .dest = htons(endpoint_port(to)), .seq = htonl(sequence), .doff = 5,
      .syn = 1, .window = htons(65535)};
  const size_t length = sizeof tcp + payload_length(payload);
  memcpy(segment, &tcp, sizeof tcp);
  memcpy(segment + sizeof tcp, payload, length - sizeof tcp);
  tcp.check = transport_checksum(from, to, IPPROTO_TCP, segment, length);
  memcpy(segment, &tcp, sizeof tcp);
  const size_t header = put_ip_header(packet->bytes, from, to, IPPROTO_TCP, length);
  memcpy(packet->bytes + header, segment, length);
  packet->length = header + length;
}

void packet_udp(struct packet *packet, const struct endpoint *from, const struct endpoint *to, const char *payload) {
  unsigned char segment[sizeof(struct udphdr) + payload_limit];
  struct udphdr udp = {.source = htons(endpoint_port(from)), .dest = htons(endpoint_port(to))};
  const size_t length = sizeof udp + payload_length(payload);
  udp.len = htons((uint16_t)length);
  memcpy(segment, &udp, sizeof udp);
  memcpy(segment + sizeof udp, payload, length - sizeof udp);
  udp.check = transport_checksum(from, to, IPPROTO_UDP, segment, length);
  // Zero means "no checksum", so a sum of zero travels as all ones.
  if (udp.check == 0) udp.check = 0xffff;
  memcpy(segment, &udp, sizeof udp);
  const size_t header = put_ip_header(packet->bytes, from, to, IPPROTO_UDP, length);
  memcpy(packet->bytes + header, segment, length);
  packet->length = header + length;
}
