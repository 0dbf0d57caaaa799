/*
 * Every bound in sealane has a name, and stands here with its reason. "size" is bytes, "n_" is a count.
 */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

enum {
	/* A service, namespace or workload name: one DNS label (RFC 1123), as SPIFFE path segments and cgroup names allow. */
	LIMIT_NAME_SIZE = 64, /* with the NUL */
	/* "ns/name" with the NUL. */
	LIMIT_SERVICE_SIZE = 2 * LIMIT_NAME_SIZE,
	/* A SPIFFE trust domain: a DNS name (RFC 1035: 253 characters). */
	LIMIT_TRUST_DOMAIN_SIZE = 254,
	/* spiffe://TD/ns/NS/svc/NAME, with room; SPIFFE-ID section 2.3 allows 2048. */
	LIMIT_SPIFFE_ID_SIZE = 512,
	/* A path in a configuration: what fits in one role message with all else. PATH_MAX would not. */
	LIMIT_PATH_SIZE = 512,
	/* One role-to-role message; a SEQPACKET datagram, so also its buffer. */
	LIMIT_ROLE_MSG_SIZE = 2048,
	/* Bytes that wait for a slow role before the channel counts as broken: a configuration at all its limits is 20 MiB. */
	LIMIT_CHAN_QUEUE_SIZE = 64 << 20,
	/* One configuration file; the largest sensible one (10,000 intentions) is about 2 MiB. */
	LIMIT_CONFIG_SIZE = 16 << 20,
	/* Nesting in a configuration file; Consul's deepest is 7. */
	LIMIT_CONFIG_DEPTH = 32,
	/* One configuration value or key. */
	LIMIT_CONFIG_STRING_SIZE = 4096,
	LIMIT_WORKLOADS = 4096,
	LIMIT_SERVICES = 8192,
	LIMIT_INTENTIONS = 65536,
	LIMIT_UPSTREAMS = 16384,
	/* Services one workload may speak as. */
	LIMIT_WORKLOAD_SERVICES = 16,
	/* Words in a health check's command line. */
	LIMIT_CHECK_ARGS = 16,
	/* Relayed lanes one gate process carries; two descriptors each, below the common hard limit of 20,000-1M. */
	LIMIT_GATE_LANES = 9000,
	/* Lanes in shared memory that are brokered at a time; a leash of each end is kept over a restart. */
	LIMIT_LANES = 32768,
	/* What a container had sent before its end waits so long, in seconds, for a reader that is slow. */
	LIMIT_LANE_LEFT_S = 60,
	/* Connections to control sockets that have no answer yet, all workloads together: room for at least one of each. */
	LIMIT_PORTER_UNANSWERED = 8192,
	/* Control connections at all: a client's for each lane, a server's for each service that listens, and those. */
	LIMIT_PORTER_CONNS = LIMIT_LANES + LIMIT_SERVICES + LIMIT_PORTER_UNANSWERED,
	/*
	 * What the regions of one workload's own lanes in shared memory may take, in MiB. The memory itself is charged to the
	 * container, which the kernel limits; this bounds what its peers have to map: 10,000 lanes with rings of 1 MiB.
	 */
	LIMIT_WORKLOAD_SHM_MIB = 16 << 10,
	/* Gate processes; one per core is enough, since a gate never blocks. */
	LIMIT_GATES = 16,
	/* Bytes a relay reads at once: where socket-file throughput stopped growing (research: 64 KiB-256 KiB). */
	LIMIT_RELAY_BUFFER_SIZE = 128 << 10,
	/* Direct lanes one scan tells of: 40 MiB of records; far above what descriptor tables allow on most hosts. */
	LIMIT_LANES_SCANNED = 1 << 20,
	/* Events kept in memory for `sealane logs`. */
	LIMIT_EVENTS_KEPT = 4096,
	/* An admin request's body. */
	LIMIT_ADMIN_BODY_SIZE = 64 << 10,
	/* Admin connections at the same time. */
	LIMIT_ADMIN_CONNS = 64,
	/* "[IPv6]:port" with the NUL: 39 + 2 + 1 + 5 + 1, and room for a scope. */
	LIMIT_ADDRESS_SIZE = 64,
	/* Other hosts, configured or told by the catalogue. */
	LIMIT_HOSTS = 1024,
	/* Linker processes; as gates, one per core is enough. */
	LIMIT_LINKERS = 16,
	/* Keys of one host: its own and one for each service, with room for those that are being replaced, and the one that signs its questions. */
	LIMIT_KEYS = 2 * LIMIT_SERVICES + 2,
	/* How long a certificate may live, seconds: 30 days, and what it is dated back (docs/design/link.md). */
	LIMIT_SVID_LIFE_S = 31 * 86400,
	/* Lanes one linker carries: one descriptor each, of a library's two, below the common hard limit of 20,000 for most. */
	LIMIT_LINK_LANES = 16384,
	/* Of these and of LIMIT_LANES, those that other hosts began: three quarters, so that what begins here finds room, whatever they do. */
	LIMIT_LINK_LANES_IN = LIMIT_LINK_LANES / 4 * 3,
	LIMIT_LANES_IN = LIMIT_LANES / 4 * 3,
	/* What one linker's regions for lanes of libraries may take, in MiB: they are smaller where there are many (linker_ring.c). */
	LIMIT_LINK_RINGS_MIB = 1024,
	/* Sessions one linker has: services of this host times hosts that they talk to, and the other way round. */
	LIMIT_LINK_SESSIONS = 4096,
	/*
	 * Of these, those that other hosts began: three quarters, as of lanes. One host has as many as are left for all others together, by its address and by
	 * its certificates. And sessions of one host to ask this one's authority: it asks for 16 certificates at a time, and for the list.
	 */
	LIMIT_LINK_SESSIONS_IN = LIMIT_LINK_SESSIONS / 4 * 3,
	LIMIT_LINK_QUESTIONS_OF_ONE = 32,
	/*
	 * Of LIMIT_LINK_SESSIONS, those of which nobody has proven anything: about as many handshakes as fit into a second at a quarter of the time. And those of one
	 * address: a host that comes back dials for all its services at once.
	 */
	LIMIT_LINK_STRANGERS = 512,
	LIMIT_LINK_STRANGERS_OF_ONE = LIMIT_LINK_STRANGERS / 2,
	/* And those that join and whose question is with the broker: others ask when these are answered. One address has as many as are left for all others together. */
	LIMIT_LINK_JOINERS = 128,
	/* Pairs of identities whose sessions are counted by themselves; what is beyond counts for the host alone. */
	LIMIT_LINK_PEERS = 4096,
	/*
	 * Bytes that came for applications that do not read them, all lanes of a linker together, in MiB: 4,096 lanes with a whole
	 * window each. Where more is needed the greatest lane of the host that has the most of it waiting is reset.
	 */
	LIMIT_LINK_KEPT_MIB = 1024,
	/*
	 * What waits in one linker for one host to read it: of so many of its sessions ciphertext, 320 KiB each, while others wait for their turn; and frames of
	 * sessions' own (answers), in MiB, before nothing more is read from that host. One that reads has some KiB of those.
	 */
	LIMIT_LINK_CHUNKS_OF_ONE = 256,
	LIMIT_LINK_ANSWERS_OF_ONE_MIB = 32,
	/* Certificates of one chain, roots of a bundle, and the list of what is revoked, as text. */
	LIMIT_CHAIN_SIZE = 64 << 10,
	LIMIT_REVOKED_SIZE = 4 << 20,
	/* An authority's book: which host may have what, by which key it asks, tokens that wait, certificates that are not over, and what is revoked. */
	LIMIT_CA_GRANTS = 65536,
	LIMIT_CA_ASKERS = 65536,
	LIMIT_CA_TOKENS = 4096,
	LIMIT_CA_ISSUED = 1 << 18,
	/*
	 * What one host is given in an hour, and what the book keeps of it: its services are renewed twice in the hour that a certificate lives
	 * where nothing else is said, and there are two of each for a while.
	 */
	LIMIT_CA_ISSUED_HOUR = 2 * LIMIT_SERVICES,
	LIMIT_CA_ISSUED_HOST = 2 * LIMIT_SERVICES,
	/*
	 * How often one host may ask the authority: at once, as a host with many services does when it joins; then in a second, which is a little more
	 * than LIMIT_CA_ISSUED_HOUR in an hour. And how many of its questions are at the signer at a time.
	 */
	LIMIT_CA_ASKS_AT_ONCE = 256,
	LIMIT_CA_ASKS_S = 5,
	LIMIT_CA_ASKS_OF_ONE = 64,
	/* How often one host is sent the list: it asks every 30 s, and at once where something has changed. */
	LIMIT_CA_LISTS_AT_ONCE = 16,
	LIMIT_CA_LISTS_S = 1,
	LIMIT_REVOKED = 65536,
	/* How old the authority's list may be at a member, seconds, before that is told: it is asked for every 30 s. */
	LIMIT_CA_LIST_AGE_S = 180,
	/* A question to an authority and its answer (JSON); what a host announces. */
	LIMIT_CA_QUESTION_SIZE = 16 << 10,
	LIMIT_CA_ANSWER_SIZE = 4 << 20,
	LIMIT_ANNOUNCE_SIZE = 2 << 20,
	/*
	 * Bytes a second of what one host announces that the broker looks at, when as many as LIMIT_ANNOUNCE_SIZE were at once; and what a short one counts as, since all
	 * routes are decided anew for each: so twenty a second, as often as a host of ours tells of changes, pass undelayed.
	 */
	LIMIT_ANNOUNCE_RATE = 1 << 20,
	LIMIT_ANNOUNCE_COST = 48 << 10,
	/* Associated data of one AES-GCM message: a TLS record has 5 bytes of it; the published test vectors up to 90. */
	LIMIT_GCM_AAD_SIZE = 128,

	/* The catalogue (docs/design/catalogue.md): a key below the prefix and a value, with the NUL; both fit into one role message. */
	LIMIT_CATALOGUE_KEY_SIZE = 320,
	LIMIT_CATALOGUE_VALUE_SIZE = 1401,
	/* Entries of all kinds that are taken from etcd: a channel to a slow broker holds all of them twice. */
	LIMIT_CATALOGUE_ENTRIES = 16384,
	/* etcd's members; clusters have 3 or 5. */
	LIMIT_ETCD_ENDPOINTS = 8,
	/* "https://HOST:PORT" with the NUL. */
	LIMIT_ETCD_ENDPOINT_SIZE = 160,
	LIMIT_ETCD_PREFIX_SIZE = 128,
	/* One answer of etcd, one line of a watch. etcd itself takes no request over 1.5 MiB, which is 2 MiB of base64. */
	LIMIT_ETCD_ANSWER_SIZE = 8 << 20,
	/* A file that `etcd` names: certificates, a key, a password. */
	LIMIT_ETCD_FILE_SIZE = 256 << 10,

	/* One-sided memory (docs/design/rdma.md). Connections of one device: beyond some hundreds its cache of their state thrashes. */
	LIMIT_RDMA_CONNS = 512,
	LIMIT_RDMA_DOMAINS = LIMIT_HOSTS,
	/* Of one domain: a ring or a table each; a part of one each. */
	LIMIT_RDMA_REGIONS = 256,
	LIMIT_RDMA_EXPORTS = 256,
	/* Registered, so pinned, bytes of one domain, in MiB, if its maker says no less. */
	LIMIT_RDMA_PINNED_MIB = 1024,
	/* Of all of a linker's sessions LIMIT_RDMA_PINNED_MIB; of those with one peer a quarter, so that others have their part. */
	LIMIT_RDMA_PEER_MIB = LIMIT_RDMA_PINNED_MIB / 4,
	/* Operations that a connection may have under way; batches of a ring that were not taken; immediates that were not polled. */
	LIMIT_RDMA_OPS = 128,
	LIMIT_RDMA_IMMS = 64,
	LIMIT_RDMA_RECVS = LIMIT_RDMA_IMMS + 2 * LIMIT_RDMA_OPS,
	/* One operation; devices take 1 GiB or 2, and the fake and the served one hold up others for as long as they copy. */
	LIMIT_RDMA_OP_SIZE = 16 << 20,
	/* Milliseconds: to connect; of silence before the peer is asked for a sign of life; an operation's; between two looks. */
	LIMIT_RDMA_CONNECT_MS = 5000,
	LIMIT_RDMA_BEAT_MS = 1000,
	LIMIT_RDMA_DEAD_MS = 3000,
	LIMIT_RDMA_LOOK_MS = 100,
	/* After the first offence; doubled with each further one, so often at most. */
	LIMIT_RDMA_QUARANTINE_MS = 1000,
	LIMIT_RDMA_QUARANTINE_DOUBLED = 6,
	/* A read of what changes is tried so often: with 16, a writer that is there half of the time fails one read in 65,536. */
	LIMIT_RDMA_READ_TRIES = 16,
	/* Microseconds that a ring which polls waits for the rest of a record: a descriptor overtakes its data by far less. */
	LIMIT_RDMA_SETTLE_US = 1000,
	/* Records under one key, and the power of two of bytes: RFC 8446 (5.5) has 2^24.5 records of 16 KiB. */
	LIMIT_SEAL_RECORDS = 1 << 24,
	LIMIT_SEAL_BYTES_LOG2 = 36,
	/* Plaintext of one sealed object. */
	LIMIT_SEAL_OBJECT_SIZE = (16 << 20) - 32,

	/* Deepest cgroup that is matched by ancestors; the kernel's own default cgroup.max.depth is unlimited, engines use < 10. */
	LIMIT_CGROUP_DEPTH = 64,
};

#endif
