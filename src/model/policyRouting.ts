/** How our own packets are told from the tunnel's on Linux (host spec sections 1 and 8.4). */

/** `SO_MARK` of every socket of ours: its packets skip the three rules below. */
export const SOCKET_MARK = 0xfd002021

/** The interface name that the tunnel has on Linux, and the adapter name on Windows. */
export const TUNNEL_NAME_LINUX = "tun-firezone"
export const TUNNEL_NAME_WINDOWS = "Firezone"

/** The three tables in the order in which the rules ask them. */
export const TABLES = {
  /** Resources. */
  user: { table: 0x2021fd00, priority: 100 },
  /** Copies of the routes of the local networks, so that they beat the internet resource. */
  linkScope: { table: 0x2021fd01, priority: 200 },
  /** The default routes of the internet resource. */
  internet: { table: 0x2021fd02, priority: 300 }
} as const

const ours: ReadonlySet<number> = new Set(Object.values(TABLES).map(({ table }) => table))
export const isOurTable = (table: number): boolean => ours.has(table)

/** What every packet on the tunnel must fit in (`MAX_IP_SIZE`). */
export const TUNNEL_MTU = 1280
