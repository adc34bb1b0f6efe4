import type { Scenario } from "../scenario.ts"
import { devicePool } from "./devicePool.ts"
import { direct, directIpv6, relayed } from "./direct.ts"
import { dns, dnsInTunnel } from "./dns.ts"
import { dnsEtcResolvConf } from "./dnsControl.ts"
import { dnsNetworkManager } from "./dnsNetworkManager.ts"
import { dnsResolved } from "./dnsResolved.ts"
import { dnsTwoResources } from "./dnsTwoResources.ts"
import { doctor } from "./doctor.ts"
import { doh } from "./doh.ts"
import { filters } from "./filters.ts"
import * as gateways from "./gateways.ts"
import { gui, guiOften } from "./gui.ts"
import { guiHostile } from "./guiHostile.ts"
import { instances } from "./instances.ts"
import { internet } from "./internet.ts"
import { loss } from "./loss.ts"
import { many } from "./many.ts"
import { metrics } from "./metrics.ts"
import { pathMode, pathModeRoam } from "./pathMode.ts"
import * as paths from "./paths.ts"
import { pingResource } from "./ping.ts"
import * as portal from "./portalOutages.ts"
import * as relays from "./relayLoss.ts"
import { revoke } from "./revoke.ts"
import * as roaming from "./roaming.ts"
import { secrets } from "./secrets.ts"
import { service } from "./service.ts"
import { status } from "./status.ts"
import { fallback, upgrade, upgradeLate } from "./upgrade.ts"
import { dnsPortalDown, dnsRoam, dnsUpstreamDown } from "./upstreams.ts"

export const scenarios: ReadonlyArray<Scenario> = [
  direct,
  directIpv6,
  relayed,
  paths.nat,
  paths.symmetric,
  paths.symmetricCoturn,
  paths.relayOnly,
  paths.relayOnlyCoturn,
  paths.ipv4Only,
  paths.ipv6Only,
  paths.mixed,
  paths.mixedReverse,
  upgrade,
  upgradeLate,
  fallback,
  relays.relayLoss,
  relays.relaySilent,
  gateways.gatewayRestart,
  gateways.gatewayLoss,
  loss,
  roaming.roam,
  roaming.roamSighup,
  roaming.sleep,
  portal.portalRestart,
  portal.portalDown,
  many,
  pathMode,
  pathModeRoam,
  internet,
  filters,
  revoke,
  devicePool,
  instances,
  dns,
  dnsTwoResources,
  dnsInTunnel,
  dnsPortalDown,
  dnsUpstreamDown,
  dnsRoam,
  dnsEtcResolvConf,
  dnsResolved,
  dnsNetworkManager,
  doh,
  status,
  metrics,
  doctor,
  pingResource,
  secrets,
  service,
  gui,
  guiHostile,
  guiOften
]
