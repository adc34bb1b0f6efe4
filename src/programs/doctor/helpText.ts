export const doctorHelp = `Usage: firezone-headless-client [OPTIONS] doctor [--json] [--stun SERVER]

Looks at everything that a person who helps would ask for, and says what was
found and what to do next: the client and its token, the kernel, TUN and
privileges, routes and other VPNs, DNS, the way to the portal layer by layer,
and UDP to relays with the kind of NAT and the size of packets. It works whether
or not a client runs, takes ten seconds at most, changes nothing, does not sign
in and shows no secret. Give it the options and variables of the client; of one
that runs, it asks the same portal. Root sees more.

      --stun SERVER   ask this server over UDP in the place of the relays that a
                      running client knows: ADDRESS or ADDRESS:PORT [port 3478];
                      may come several times, and two tell the kind of a NAT
      --json          print one JSON object, as docs/doctor.md describes it

Exit codes: 0 nothing is wrong; 10 warnings; 11 something cannot work; 1 it
could not look; 2 wrong usage.
`
