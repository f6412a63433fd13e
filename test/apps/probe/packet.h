// Hand-made IP packets: headers and checksums for TCP SYN and UDP over IPv4 and IPv6, without options.
#ifndef SIDESTEP_TEST_PACKET_H
#define SIDESTEP_TEST_PACKET_H
#include <stddef.h>
#include <stdint.h>

#include "../common/net.h"

enum { packet_limit = 1400 };

struct packet {
  unsigned char bytes[packet_limit];
  size_t length;
};

// From and to must be of one family; their ports are used. Payload beyond the limit is cut.
void packet_tcp_syn(struct packet *packet, const struct endpoint *from, const struct endpoint *to, uint32_t sequence,
    const char *payload);
void packet_udp(struct packet *packet, const struct endpoint *from, const struct endpoint *to, const char *payload);

#endif
