/** Numbers of netlink(7) and rtnetlink(7), from linux/{netlink,rtnetlink,if_link,if_addr,fib_rules}.h. */

export const AF_UNSPEC = 0
export const AF_INET = 2
export const AF_INET6 = 10
export type AddressFamily = typeof AF_INET | typeof AF_INET6

export const NLMSG_HEADER = 16
export const NLMSG = { NOOP: 1, ERROR: 2, DONE: 3, OVERRUN: 4 } as const

export const NLM_F = {
  REQUEST: 0x001,
  MULTI: 0x002,
  ACK: 0x004,
  /** In a dump: the table changed meanwhile, ask again. */
  DUMP_INTR: 0x010,
  /** In an error or ack: the request's payload is left out. */
  CAPPED: 0x100,
  /** In an error or ack: attributes with the kernel's own words follow. */
  ACK_TLVS: 0x200,
  /** REQUEST | ROOT | MATCH */
  DUMP: 0x301,
  /** REQUEST | ACK | EXCL | CREATE */
  ADD: 0x605,
  /** REQUEST | ACK | CREATE | APPEND: beside a route to the same network, as long as it is another one. */
  APPEND: 0xc05,
  /** REQUEST | ACK */
  CHANGE: 0x005
} as const

export const RTM = {
  NEWLINK: 16,
  DELLINK: 17,
  GETLINK: 18,
  SETLINK: 19,
  NEWADDR: 20,
  DELADDR: 21,
  GETADDR: 22,
  NEWROUTE: 24,
  DELROUTE: 25,
  GETROUTE: 26,
  NEWRULE: 32,
  DELRULE: 33,
  GETRULE: 34
} as const

/** `ifinfomsg` */
export const LINK_HEADER = 16
export const IFLA = { IFNAME: 3, MTU: 4, TXQLEN: 13, OPERSTATE: 16, LINKINFO: 18, AF_SPEC: 26, EXT_MASK: 29 } as const
/** Inside `IFLA.LINKINFO`. */
export const IFLA_INFO_KIND = 1
export const IFLA_INET6_ADDR_GEN_MODE = 8
export const IN6_ADDR_GEN_MODE_NONE = 1
export const RTEXT_FILTER_SKIP_STATS = 8
export const IFF = { UP: 0x1, LOOPBACK: 0x8, POINTOPOINT: 0x10, RUNNING: 0x40, LOWER_UP: 0x10000 } as const
/** `IF_OPER_UP` of RFC 2863; a link that cannot tell says 0, unknown. */
export const OPERSTATE_UP = 6

/** `ifaddrmsg` */
export const ADDRESS_HEADER = 8
export const IFA = { ADDRESS: 1, LOCAL: 2, FLAGS: 8 } as const
export const IFA_F = {
  /** IPv6 only; IPv4 calls the same bit secondary. */
  TEMPORARY: 0x01,
  DADFAILED: 0x08,
  DEPRECATED: 0x20,
  TENTATIVE: 0x40,
  OPTIMISTIC: 0x04
} as const

/** `rtmsg` */
export const ROUTE_HEADER = 12
export const RTA = {
  DST: 1,
  SRC: 2,
  OIF: 4,
  GATEWAY: 5,
  PRIORITY: 6,
  PREFSRC: 7,
  MULTIPATH: 9,
  CACHEINFO: 12,
  TABLE: 15,
  MARK: 16,
  VIA: 18,
  NH_ID: 30
} as const
export const ROUTE_TYPE = {
  UNICAST: 1,
  LOCAL: 2,
  BROADCAST: 3,
  ANYCAST: 4,
  MULTICAST: 5,
  BLACKHOLE: 6,
  UNREACHABLE: 7,
  PROHIBIT: 8
} as const
export const RTM_F = { CLONED: 0x200, LOOKUP_TABLE: 0x1000, FIB_MATCH: 0x2000 } as const
export const RTNH_F_ONLINK = 4
export const RT_TABLE = { COMPAT: 252, MAIN: 254, LOCAL: 255 } as const
export const RT_SCOPE = { UNIVERSE: 0, LINK: 253, HOST: 254 } as const
export const RTPROT = { KERNEL: 2, STATIC: 4, RA: 9 } as const

/** `fib_rule_hdr` */
export const RULE_HEADER = 12
export const FRA = { PRIORITY: 6, FWMARK: 10, TABLE: 15, PROTOCOL: 21 } as const
export const FR_ACT_TO_TBL = 1
export const FIB_RULE_INVERT = 0x2

/** Group bits for `sockaddr_nl` and numbers for `NETLINK_ADD_MEMBERSHIP`. */
export const RTMGRP = {
  LINK: 0x1,
  IPV4_IFADDR: 0x10,
  IPV4_ROUTE: 0x40,
  IPV4_RULE: 0x80,
  IPV6_IFADDR: 0x100,
  IPV6_ROUTE: 0x400
} as const
export const RTNLGRP_IPV6_RULE = 19
