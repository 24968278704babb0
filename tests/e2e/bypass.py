"""Every way that we know past a fabric, tried once each by TCP and by UDP. Prints `NAME PROTOCOL OUTCOME` for each.

OUTCOME is `sent` (the kernel took it), `refused` (it did not) or `CONNECTED`. The argument is a JSON object: addresses of
what must not be reached, of whom the caller would like to be, and of itself, and devices to name.
"""
import json, os, select, socket, struct, subprocess, sys

at = json.loads(sys.argv[1])
PORT, TOKEN = at["port"], b"RIPSTOP-BYPASS"
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
FREEBIND = {socket.AF_INET: (socket.SOL_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
connecting = []


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def call(kind, to, port=PORT, prepare=lambda s: None, af=None):
    """An ordinary socket: a datagram, or a connection that is waited for at the end."""
    s = socket.socket(af or family(to), kind)
    s.setblocking(False)
    prepare(s)
    if kind == UDP:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(TOKEN, (to, port))
        return s
    code = s.connect_ex((to, port))
    if code not in (0, 115):
        raise OSError(code, "connect")
    connecting.append((current, s))
    return s


def bound(address, port=0, free=True):
    def prepare(s):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if free:
            s.setsockopt(*FREEBIND[s.family], 1)
        s.bind((address, port))
    return prepare


def device(name):
    return lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())


def both(*steps):
    def prepare(s):
        for step in steps:
            step(s)
    return prepare


def total(data):
    data += b"\0" * (len(data) % 2)
    value = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return ~value & 0xFFFF


def segment(kind, source, to, flags=2):
    """A TCP segment or a UDP datagram with its checksum."""
    number = 6 if kind == TCP else 17
    if kind == TCP:
        head = struct.pack("!HHIIBBHHH", 40000, PORT, 7, 1, 0x50, flags, 65535, 0, 0)
        place = 16
    else:
        head = struct.pack("!HHHH", 40000, PORT, 8 + len(TOKEN), 0)
        place = 6
    body = head + TOKEN
    af = family(to)
    pseudo = socket.inet_pton(af, source) + socket.inet_pton(af, to)
    pseudo += struct.pack("!HH", number, len(body)) if af == socket.AF_INET else struct.pack("!II", len(body), number)
    check = struct.pack("!H", total(pseudo + body))
    return number, body[:place] + check + body[place + 2:]


def ipv4(source, to, number, payload, fragment=0, options=b""):
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 + length // 4, 0, length + len(payload), 7, fragment, 64, number, 0)
    head += socket.inet_aton(source) + socket.inet_aton(to) + options
    return head[:10] + struct.pack("!H", total(head)) + head[12:] + payload


def ipv6(source, to, number, payload):
    head = struct.pack("!IHBB", 6 << 28, len(payload), number, 64)
    return head + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to) + payload


def raw(packet, name=None):
    """A packet as it is, by a device or as the routes have it."""
    six = packet[0] >> 4 == 6
    s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, 255)
    if six:
        s.setsockopt(socket.IPPROTO_IPV6, 36, 1)  # IPV6_HDRINCL
    if name:
        device(name)(s)
    to = socket.inet_ntop(socket.AF_INET6, packet[24:40]) if six else socket.inet_ntoa(packet[16:20])
    s.sendto(packet, (to, 0))


def raw4(kind, source, to, name=None, flags=2, **more):
    raw(ipv4(source, to, *segment(kind, source, to, flags), **more), name)


def raw6(kind, source, to, name=None):
    raw(ipv6(source, to, *segment(kind, source, to)), name)


def literal4(kind): call(kind, at["service4"])
def literal6(kind): call(kind, at["service6"])
def mapped(kind): call(kind, "::ffff:" + at["service4"], af=socket.AF_INET6)
def of_a_user4(kind): call(kind, at["user4"])
def of_a_user6(kind): call(kind, at["user6"])
def other_tenant4(kind): call(kind, at["foreign4"])
def other_tenant6(kind): call(kind, at["foreign6"])
def endpoint4(kind): call(kind, at["endpoint4"])
def endpoint6(kind): call(kind, at["endpoint6"])
def endpoint_mapped(kind): call(kind, "::ffff:" + at["endpoint4"], af=socket.AF_INET6)
def host_of_endpoint(kind): call(kind, at["host4"])
def resolver(kind): call(kind, at["resolver4"])
def port_of_agent(kind): call(kind, at["host4"], port=7477)
def multicast4(kind): call(kind, "224.0.0.1")
def multicast6(kind): call(kind, "ff02::1", prepare=device(at["own"]))
def broadcast(kind): call(kind, "198.18.255.255")
def loopback4(kind): call(kind, "127.0.0.1")
def loopback_other(kind): call(kind, "127.99.1.1")
def loopback6(kind): call(kind, "::1")
def from_loopback4(kind): call(kind, at["service4"], prepare=bound("127.0.0.1"))
def from_loopback6(kind): call(kind, at["service6"], prepare=bound("::1"))
def loopback_by_device(kind): call(kind, "127.0.0.1", prepare=device(at["own"]))
def as_other4(kind): call(kind, at["service4"], prepare=bound(at["other4"]))
def as_other6(kind): call(kind, at["service6"], prepare=bound(at["other6"]))
def as_service(kind): call(kind, at["service4"], prepare=bound(at["resolver4"]))
def within_host_as_other6(kind): call(kind, "::1", prepare=bound(at["other6"]))
def by_other_device4(kind): call(kind, at["service4"], prepare=device(at["device"]))
def by_other_device6(kind): call(kind, at["service6"], prepare=device(at["device"]))
def by_loopback_device(kind): call(kind, at["service4"], prepare=device("lo"))
def by_other_s_interface(kind): call(kind, at["service4"], prepare=device(at["others"]))
def by_other_s_interface_as_it(kind):
    call(kind, at["service4"], prepare=both(device(at["others"]), bound(at["other4"])))
def same_port_as_a_session(kind):
    share = lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    call(kind, at["service4"], prepare=both(share, bound(at["other4"], at["session"])))
def marked(kind): call(kind, at["service4"], prepare=lambda s: s.setsockopt(socket.SOL_SOCKET, 36, 0x52530001))
def source_route(kind):
    route = bytes([1, 0x83, 7, 4]) + socket.inet_aton(at["service4"])
    call(kind, at["host4"], prepare=lambda s: s.setsockopt(socket.SOL_IP, socket.IP_OPTIONS, route))
def more_specific(kind):
    ways = [["ip", "route", "replace", at["service4"] + "/32", "via", at["gateway4"], "dev", at["device"], "onlink"],
            ["ip", "-6", "route", "replace", at["service6"] + "/128", "dev", at["device"], "metric", "1"]]
    try:
        for way in ways:
            if subprocess.run(way, capture_output=True).returncode:
                raise OSError(1, "no right to add a route")
        call(kind, at["service4"])
        call(kind, at["service6"])
    finally:
        for way in ways:
            subprocess.run([word if word != "replace" else "delete" for word in way], capture_output=True)
def named_for_a_packet(kind):
    index = socket.if_nametoindex(at["device"])
    if kind == TCP:
        return raw4(kind, at["self4"], at["service4"], at["device"])
    s = socket.socket(socket.AF_INET, UDP)
    information = struct.pack("=I4s4s", index, b"\0" * 4, b"\0" * 4)
    s.sendmsg([TOKEN], [(socket.SOL_IP, 8, information)], 0, (at["service4"], PORT))
def unicast_device(kind):
    index = socket.htonl(socket.if_nametoindex(at["device"]))
    call(kind, at["service4"], prepare=lambda s: s.setsockopt(socket.SOL_IP, 50, struct.pack("=I", index)))
def fast_open(kind):
    s = socket.socket(socket.AF_INET, kind)
    s.setblocking(False)
    s.sendto(TOKEN, socket.MSG_FASTOPEN if kind == TCP else 0, (at["service4"], PORT))
def raw_honest4(kind): raw4(kind, at["self4"], at["service4"])
def raw_honest6(kind): raw6(kind, at["self6"], at["service6"])
def raw_without_session(kind): raw4(kind, at["self4"], at["service4"], flags=0x18)
def raw_as_other4(kind): raw4(kind, at["other4"], at["service4"])
def raw_as_other6(kind): raw6(kind, at["other6"], at["service6"])
def raw_as_other_to_endpoint(kind): raw4(kind, at["other4"], at["endpoint4"])
def raw_as_other_by_device(kind): raw4(kind, at["other4"], at["service4"], at["device"])
def raw_as_other_by_its_interface(kind): raw4(kind, at["other4"], at["service4"], at["others"])
def raw_from_outside(kind): raw4(kind, "8.8.8.8", at["service4"])
def raw_with_options(kind):
    route = bytes([0x83, 7, 4]) + socket.inet_aton(at["endpoint4"]) + b"\0"
    raw4(kind, at["self4"], at["service4"], options=route)
def fragments4(kind):
    number, body = segment(kind, at["self4"], at["service4"])
    raw(ipv4(at["self4"], at["service4"], number, body[:16], fragment=0x2000))
    raw(ipv4(at["self4"], at["service4"], number, body[16:], fragment=2))
def tiny_fragments4(kind):
    number, body = segment(kind, at["self4"], at["service4"])
    for start in range(0, len(body), 8):
        more = 0x2000 if start + 8 < len(body) else 0
        raw(ipv4(at["self4"], at["service4"], number, body[start:start + 8], fragment=more | start // 8))
def extension(kind, header, first):
    number, body = segment(kind, at["self6"], at["service6"])
    raw(ipv6(at["self6"], at["service6"], header, bytes([number]) + first + body))
def fragments6(kind): extension(kind, 44, struct.pack("!BHI", 0, 1, 9))
def atomic_fragment6(kind): extension(kind, 44, struct.pack("!BHI", 0, 0, 9))
def hop_by_hop6(kind): extension(kind, 0, bytes([0, 1, 4, 0, 0, 0, 0]))
def destination_options6(kind): extension(kind, 60, bytes([0, 1, 4, 0, 0, 0, 0]))
def routing_header6(kind):
    way = bytes([2, 0, 1, 0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, at["endpoint6"])
    extension(kind, 43, way)
def tunnelled4(kind):
    inner = ipv4(at["other4"], at["service4"], *segment(kind, at["other4"], at["service4"]))
    raw(ipv4(at["self4"], at["service4"], 4, inner))
def tunnelled6(kind):
    inner = ipv6(at["other6"], at["service6"], *segment(kind, at["other6"], at["service6"]))
    raw(ipv4(at["self4"], at["service4"], 41, inner))
def other_protocol(kind): raw(ipv4(at["self4"], at["service4"], 132 if kind == TCP else 136, segment(kind, at["self4"], at["service4"])[1]))
def icmp(kind, code, rest):
    inner = ipv4(at["service4"], at["self4"], *segment(kind, at["service4"], at["self4"]))
    head = struct.pack("!BBH", *code, 0) + rest
    body = head[:2] + struct.pack("!H", total(head + inner)) + head[4:] + inner
    raw(ipv4(at["self4"], at["service4"], 1, body))
def icmp_unreachable(kind): icmp(kind, (3, 3), b"\0" * 4)
def icmp_too_big(kind): icmp(kind, (3, 4), struct.pack("!HH", 0, 68))
def icmp_redirect(kind): icmp(kind, (5, 1), socket.inet_aton(at["gateway4"]))
def icmp_with_token(kind): icmp(kind, (8 if kind == TCP else 13, 0), b"\0" * 4)


WAYS = [f for name, f in list(globals().items()) if callable(f) and getattr(f, "__code__", None)
        and f.__code__.co_varnames[:f.__code__.co_argcount] == ("kind",)]
outcomes = {}
for way in WAYS:
    for kind, protocol in ((TCP, "tcp"), (UDP, "udp")):
        current = (way.__name__, protocol)
        try:
            way(kind)
            outcomes[current] = "sent"
        except OSError:
            outcomes[current] = "refused"
waiting = {s.fileno(): cell for cell, s in connecting}
deadline = 15
while waiting and deadline:
    _, ready, _ = select.select([], list(waiting), [], 0.1)
    deadline -= 1
    for number in ready:
        cell = waiting.pop(number)
        s = next(s for _, s in connecting if s.fileno() == number)
        if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            outcomes[cell] = "CONNECTED"
            s.send(TOKEN)
        else:
            outcomes[cell] = "refused"
for (name, protocol), outcome in outcomes.items():
    print(name, protocol, outcome)
