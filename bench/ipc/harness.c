/*
 * main() of every measuring program: two processes, each on its CPU, one measurement, one line of output.
 *
 * Before and after the measurement the bare bounce of one cache line between the same two CPUs is taken: on a virtual machine the
 * hypervisor moves them between siblings of one core and far cores, which changes a spinning round trip by a factor of five, and
 * report.py can then drop what was measured while they moved. The load of others is taken from /proc/stat.
 *
 * --fifo gives both ends a real-time priority, for machines where others work too. Order matters: a process gets it only when it
 * is on its own CPU, nobody spins in wait for the other side to start, and every process has a watchdog (alarm()).
 */
#include "ipc.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	EXIT_SKIP = 77,
	WATCHDOG_S = 10,
	BOUNCES = 20000,
	WARM_NS = 50000000,
	IDLE_S = 2,
};

struct opts {
	const struct ipc_peer *peer;
	cpu_set_t allowed;
	int cpu[2];
	bool fifo, bounce_only;
};

static struct opts g_opts;
static struct ipc_run g_run;
static double g_ticks_per_ns;

void ipc_die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
	_exit(1);
}

void ipc_skip(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
	_exit(EXIT_SKIP);
}

/* --- where we run -------------------------------------------------------------------------------------------------------------- */

static int cpu_of(int side)
{
	return g_opts.cpu[g_run.one_core ? 0 : side];
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		ipc_die("cannot run on CPU %d: %s; say which two with --cpus A,B", cpu, strerror(errno));
}

/* As we were started: threads that a library makes go where they like. */
static void unpin(void)
{
	if (sched_setaffinity(0, sizeof(g_opts.allowed), &g_opts.allowed) < 0)
		ipc_die("sched_setaffinity: %s", strerror(errno));
}

static void set_fifo(bool on)
{
	struct sched_param p = { .sched_priority = on ? 10 : 0 };

	if (g_opts.fifo && sched_setscheduler(0, on ? SCHED_FIFO : SCHED_OTHER, &p) < 0)
		ipc_die("--fifo: %s; it needs CAP_SYS_NICE and a CPU controller that has real-time time", strerror(errno));
}

/* Sleeps, and does not spin: the other side may still have to run on this CPU. */
static void meet(int side, uint32_t stage)
{
	__atomic_store_n(&g_run.control->ready[side], stage, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&g_run.control->ready[!side], __ATOMIC_SEQ_CST) < stage)
		usleep(50);
}

static pid_t start_child(void)
{
	pid_t parent = getpid(), pid;

	memset(g_run.control->ready, 0, sizeof(g_run.control->ready));
	pid = fork();
	if (pid < 0)
		ipc_die("fork: %s", strerror(errno));
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		alarm(WATCHDOG_S);
		g_run.side = 1;
	}
	return pid;
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static void on_child(int signal)
{
	/* A child that gave up has said why; without this we would wait for it until the watchdog barks. */
	int status;

	if (waitpid(-1, &status, WNOHANG) > 0)
		_exit(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1);
}

/* --- the bare bounce ----------------------------------------------------------------------------------------------------------- */

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/*
 * The median of the samples, which get sorted. Its neighbours are averaged with it, since the clock may tick in steps of 10 ns and
 * more, and a bounce is a hundred.
 */
static double middle_ns(uint32_t n)
{
	uint64_t sum = 0;
	uint32_t from = n * 2 / 5, to = n * 3 / 5 + 1;

	qsort(g_run.samples, n, sizeof(*g_run.samples), compare_u64);
	for (uint32_t i = from; i < to; i++)
		sum += g_run.samples[i];
	return (double)sum / (to - from) / g_ticks_per_ns;
}

static void bounce_serve(struct ipc_control *c, bool relax)
{
	for (uint32_t i = 1; i <= BOUNCES; i++) {
		while (__atomic_load_n(&c->ping, __ATOMIC_ACQUIRE) != i) {
			if (relax)
				ipc_pause();
		}
		__atomic_store_n(&c->pong, i, __ATOMIC_RELEASE);
	}
}

static double bounce_ask(struct ipc_control *c, bool relax)
{
	for (uint32_t i = 1; i <= BOUNCES; i++) {
		uint64_t start = ipc_ticks();

		__atomic_store_n(&c->ping, i, __ATOMIC_RELEASE);
		while (__atomic_load_n(&c->pong, __ATOMIC_ACQUIRE) != i) {
			if (relax)
				ipc_pause();
		}
		g_run.samples[i - 1] = ipc_ticks() - start;
	}
	return middle_ns(BOUNCES);
}

/*
 * The median of a round trip of one line, in ns; 0 when both ends are to share a CPU. With and without PAUSE in the loop, and the
 * faster of the two counts: which one that is depends on the processor and on where the CPUs are.
 */
static double bounce(void)
{
	double ns[2];
	pid_t pid;

	if (g_run.one_core)
		return 0;
	g_run.control->ping = g_run.control->pong = 0;
	signal(SIGCHLD, SIG_DFL);
	pid = start_child();
	pin(cpu_of(pid == 0));
	meet(pid == 0, 1);
	set_fifo(true);
	for (uint32_t relax = 0; relax < 2; relax++) {
		meet(pid == 0, 2 + 2 * relax);
		if (pid == 0)
			bounce_serve(g_run.control, relax);
		else
			ns[relax] = bounce_ask(g_run.control, relax);
		meet(pid == 0, 3 + 2 * relax);
		g_run.control->ping = g_run.control->pong = 0; /* both have seen the last one */
	}
	if (pid == 0)
		_exit(0);
	set_fifo(false);
	end_child(pid);
	unpin();
	return ns[0] < ns[1] ? ns[0] : ns[1];
}

/* --- the measurement ----------------------------------------------------------------------------------------------------------- */

void ipc_start_clock(struct ipc_run *run)
{
	run->warm_at = ipc_ticks() + (uint64_t)(WARM_NS * g_ticks_per_ns);
	run->end_at = run->warm_at + (uint64_t)((double)run->duration_ns * g_ticks_per_ns);
}

bool ipc_stream_goes_on(struct ipc_run *run, uint64_t n_sent)
{
	static uint64_t started_at, received_at_start;
	uint64_t now = ipc_ticks(), received;

	if (now < run->warm_at)
		return true;
	received = __atomic_load_n(&run->control->n_received, __ATOMIC_RELAXED);
	if (!started_at) {
		started_at = now;
		received_at_start = received;
		return true;
	}
	if (now < run->end_at)
		return true;
	run->window_ticks = now - started_at;
	run->window_received = received - received_at_start;
	run->n_sent = n_sent;
	return false;
}

/* Every message that was sent has to arrive: a peer that drops some would look fast. */
static void check_all_arrived(void)
{
	uint64_t give_up = ipc_ns() + 2000000000u, received;

	do {
		received = __atomic_load_n(&g_run.control->n_received, __ATOMIC_RELAXED);
		if (received == g_run.n_sent)
			return;
		usleep(200);
	} while (ipc_ns() < give_up);
	ipc_die("%s: %llu messages were sent and %llu arrived", g_opts.peer->name, (unsigned long long)g_run.n_sent,
		(unsigned long long)received);
}

static uint64_t rusage_ns(int who)
{
	struct rusage u;

	getrusage(who, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000u + (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000u;
}

/* Both ends have waited for a message that does not come: what did that cost? */
static void on_alarm(int signal)
{
	uint64_t used = rusage_ns(RUSAGE_SELF) - g_run.control->cpu_ns[g_run.side];

	g_run.control->cpu_ns[g_run.side] = used;
	meet(g_run.side, 10);
	if (g_run.side == 1)
		_exit(0);
	printf("%s\tidle\t%d\t%.3f\t%.3f\n", g_opts.peer->name, IDLE_S, (double)g_run.control->cpu_ns[0] / IDLE_S / 1e7,
	       (double)g_run.control->cpu_ns[1] / IDLE_S / 1e7);
	fflush(stdout);
	_exit(0);
}

/* After the fork, in both processes; returns in the one that measures. */
static void run_side(int side)
{
	const struct ipc_peer *peer = g_opts.peer;
	ipc_loop *client, *server;

	if (!peer->threads)
		pin(cpu_of(side));
	meet(side, 1);
	set_fifo(true);
	if (peer->attach)
		peer->attach(&g_run);
	peer->loops(&g_run, &client, &server);
	pin(cpu_of(side));
	meet(side, 2);
	if (g_run.op == IPC_IDLE) {
		g_run.control->cpu_ns[side] = rusage_ns(RUSAGE_SELF);
		signal(SIGALRM, on_alarm);
		alarm(IDLE_S);
		server(&g_run);
	}
	if (side == 1) {
		server(&g_run);
		_exit(1);
	}
	ipc_start_clock(&g_run);
	client(&g_run);
	set_fifo(false);
	if (g_run.op == IPC_STREAM)
		check_all_arrived();
}

static void measure(void)
{
	pid_t pid;

	if (g_run.one_core)
		pin(cpu_of(0)); /* before: a library may ask how many CPUs there are */
	g_opts.peer->open(&g_run);
	signal(SIGCHLD, on_child);
	pid = start_child();
	run_side(pid == 0);
	signal(SIGCHLD, SIG_DFL);
	end_child(pid);
	if (g_opts.peer->close)
		g_opts.peer->close(&g_run);
}

/* --- command line -------------------------------------------------------------------------------------------------------------- */

static void calibrate(void)
{
	uint64_t ns = ipc_ns(), ticks = ipc_ticks();

	usleep(10000);
	g_ticks_per_ns = (double)(ipc_ticks() - ticks) / (double)(ipc_ns() - ns);
}

/* Busy time of all CPUs in ns; 0 when it cannot be told. */
static uint64_t machine_busy_ns(void)
{
	unsigned long long user, nice, system, idle_, iowait, irq, softirq;
	FILE *f = fopen("/proc/stat", "re");
	uint64_t ticks = 0;

	if (f && fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle_, &iowait, &irq, &softirq) == 7)
		ticks = user + nice + system + irq + softirq;
	if (f)
		fclose(f);
	return ticks * (1000000000u / (uint64_t)sysconf(_SC_CLK_TCK));
}

static double percentile(double p)
{
	return (double)g_run.samples[(uint32_t)((g_run.n_samples - 1) * p)] / g_ticks_per_ns;
}

static void print_result(double before, double after, double foreign)
{
	static const char *const modes[] = { "spin", "adaptive", "block" };
	double rate = 0, p[3] = { 0 };

	if (g_run.op == IPC_STREAM) {
		rate = (double)g_run.window_received / (double)g_run.window_ticks * g_ticks_per_ns * 1e9;
	} else {
		if (g_run.n_samples == 0)
			ipc_die("%s: no round trip within the time", g_opts.peer->name);
		p[0] = middle_ns(g_run.n_samples);
		p[1] = percentile(0.99);
		p[2] = percentile(0.999);
	}
	printf("%s\t%s\t%zu\t%s\t%s\t%s\t%u\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.4f\t%d\n", g_opts.peer->name,
	       g_run.op == IPC_STREAM ? "stream" : g_run.op == IPC_CALL ? "call" : "rtt", g_run.size, modes[g_run.mode],
	       g_run.one_core ? "one" : "two", g_run.place ? "place" : "copy", g_run.batch, p[0], p[1], p[2], rate, before, after,
	       foreign * 100, g_run.n_sent ? (double)g_run.control->n_wakes * g_run.batch / (double)g_run.n_sent : 0, g_opts.fifo);
}

static const char g_usage[] =
	"usage: %s PEER rtt|stream|idle|call SIZE spin|adaptive|block [--one-core] [--place] [--batch N] [--ring LOG2] [--ms N]\n"
	"       [--cpus A,B] [--fifo]\n"
	"       %s bounce [--cpus A,B] [--fifo]\n"
	"       %s peers\n";

static int word_of(const char *word, const char *const *words, const char *program)
{
	for (int i = 0; words[i]; i++) {
		if (strcmp(words[i], word) == 0)
			return i;
	}
	fprintf(stderr, g_usage, program, program, program);
	exit(2);
}

static void parse_options(int argc, char **argv)
{
	static const struct option longs[] = { { "one-core", 0, NULL, 'o' }, { "place", 0, NULL, 'p' }, { "batch", 1, NULL, 'b' },
					       { "ring", 1, NULL, 'r' },     { "ms", 1, NULL, 'm' },	{ "cpus", 1, NULL, 'c' },
					       { "fifo", 0, NULL, 'f' },     { NULL } };
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'o')
			g_run.one_core = true;
		else if (c == 'p')
			g_run.place = true;
		else if (c == 'b')
			g_run.batch = (uint32_t)atoi(optarg);
		else if (c == 'r')
			g_run.ring_log2 = (uint32_t)atoi(optarg);
		else if (c == 'm')
			g_run.duration_ns = (uint64_t)atoll(optarg) * 1000000u;
		else if (c == 'f')
			g_opts.fifo = true;
		else if (c != 'c' || sscanf(optarg, "%d,%d", &g_opts.cpu[0], &g_opts.cpu[1]) != 2)
			exit(2);
	}
	if (g_run.batch == 0)
		g_run.batch = 1;
}

static void parse(int argc, char **argv)
{
	static const char *const ops[] = { "rtt", "stream", "idle", "call", NULL };
	static const char *const modes[] = { "spin", "adaptive", "block", NULL };
	const struct ipc_peer *p = g_ipc_peers;

	parse_options(argc, argv);
	argc -= optind;
	if (argc == 1 && strcmp(argv[optind], "bounce") == 0) {
		g_opts.bounce_only = true;
		return;
	}
	if (argc != 4) {
		fprintf(stderr, g_usage, argv[0], argv[0], argv[0]);
		exit(2);
	}
	while (p->name && strcmp(p->name, argv[optind]) != 0)
		p++;
	if (!p->name)
		ipc_die("there is no peer \"%s\" in this program", argv[optind]);
	g_opts.peer = p;
	g_run.op = (enum ipc_op)word_of(argv[optind + 1], ops, argv[0]);
	g_run.size = (size_t)atol(argv[optind + 2]);
	g_run.mode = (enum ipc_mode)word_of(argv[optind + 3], modes, argv[0]);
	if (!p->mode[g_run.mode] || (g_run.place && !p->can_place) || (g_run.batch > 1 && !p->can_batch) ||
	    (g_run.op == IPC_CALL && !p->can_call) || g_run.size < 8)
		ipc_skip("%s cannot do that", p->name);
}

/* The first two CPUs that we may use. */
static void find_cpus(void)
{
	int n = 0;

	if (sched_getaffinity(0, sizeof(g_opts.allowed), &g_opts.allowed) < 0)
		ipc_die("sched_getaffinity: %s", strerror(errno));
	for (int cpu = 0; cpu < CPU_SETSIZE && n < 2; cpu++) {
		if (CPU_ISSET(cpu, &g_opts.allowed))
			g_opts.cpu[n++] = cpu;
	}
	if (n < 2)
		g_opts.cpu[1] = g_opts.cpu[0];
}

static void *shared_pages(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		ipc_die("mmap: %s", strerror(errno));
	return p;
}

int main(int argc, char **argv)
{
	uint64_t busy, own, from;
	double before, after, elapsed;

	for (const struct ipc_peer *p = g_ipc_peers; argc == 2 && strcmp(argv[1], "peers") == 0; p++) {
		if (!p->name)
			return 0;
		puts(p->name);
	}
	g_run = (struct ipc_run){ .batch = 1, .ring_log2 = 18, .duration_ns = 250000000 };
	find_cpus();
	parse(argc, argv);
	if (g_opts.cpu[0] == g_opts.cpu[1] && !g_run.one_core)
		ipc_skip("two CPUs are needed");
	alarm(WATCHDOG_S);
	g_run.control = shared_pages(sizeof(*g_run.control));
	g_run.samples = shared_pages(IPC_SAMPLES_MAX * sizeof(*g_run.samples));
	g_run.buf = aligned_alloc(4096, (g_run.size + 8191) & ~(size_t)4095);
	if (!g_run.buf)
		ipc_die("out of memory");
	memset(g_run.buf, 1, g_run.size);
	calibrate();
	before = bounce();
	if (g_opts.bounce_only) {
		printf("bounce\t%.0f\n", before);
		return 0;
	}
	busy = machine_busy_ns();
	own = rusage_ns(RUSAGE_SELF) + rusage_ns(RUSAGE_CHILDREN);
	from = ipc_ns();
	measure();
	elapsed = (double)(ipc_ns() - from) * (double)sysconf(_SC_NPROCESSORS_ONLN);
	busy = machine_busy_ns() - busy;
	own = rusage_ns(RUSAGE_SELF) + rusage_ns(RUSAGE_CHILDREN) - own;
	after = 0;
	/* bounce() uses the samples' memory */
	if (g_run.op == IPC_STREAM) {
		after = bounce();
	} else {
		uint64_t *keep = g_run.samples;

		g_run.samples = shared_pages(IPC_SAMPLES_MAX * sizeof(*g_run.samples));
		after = bounce();
		g_run.samples = keep;
	}
	print_result(before, after, busy > own ? (double)(busy - own) / elapsed : 0);
	return 0;
}
