import type { ClientSettings } from "../../src/services/ClientConfig.ts"

/** Settings with every default, for tests that care about one of them. */
export const settings = (changes: Partial<ClientSettings> = {}): ClientSettings => ({
  apiUrl: new URL("ws://127.0.0.1:8081/"),
  name: "test",
  id: undefined,
  tokenPath: "/nonexistent/token",
  logDir: undefined,
  maxPartitionTime: undefined,
  dnsControl: "disabled",
  activateInternetResource: false,
  check: false,
  exit: false,
  increaseBuffers: false,
  tunName: "tun-test",
  stateDir: "/nonexistent/state",
  controlSocket: "/nonexistent/control.sock",
  offloads: true,
  aead: "auto",
  udpSendBuffer: undefined,
  udpReceiveBuffer: undefined,
  metricsAddress: undefined,
  otlpEndpoint: undefined,
  warnings: [],
  ...changes
})
