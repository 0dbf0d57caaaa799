/* gRPC over a Unix socket: a unary call for each round trip, a client stream for the one-way work. It has threads of its own. */
#include "ipc.h"

#include "bench.grpc.pb.h"

#include <cstring>
#include <grpcpp/grpcpp.h>
#include <memory>
#include <string>
#include <unistd.h>

using sealane::bench::Echo;
using sealane::bench::Payload;

static std::string g_url;
static std::unique_ptr<Echo::Stub> g_stub;
static std::unique_ptr<grpc::Server> g_server;
static struct ipc_run *g_run_;

class EchoService final : public Echo::Service {
	grpc::Status Ping(grpc::ServerContext *, const Payload *in, Payload *out) override
	{
		out->set_data(in->data());
		return grpc::Status::OK;
	}

	grpc::Status Push(grpc::ServerContext *, grpc::ServerReader<Payload> *reader, Payload *) override
	{
		Payload in;

		for (uint64_t n = 1; reader->Read(&in); n++) {
			memcpy(g_run_->buf, in.data().data(), in.data().size());
			ipc_received(g_run_, n);
		}
		return grpc::Status::OK;
	}
};

static void ping(struct ipc_run *run)
{
	Payload in, out;
	bool more;

	do {
		uint64_t start = ipc_ticks();
		grpc::ClientContext context;
		grpc::Status status;

		out.set_data(run->buf, run->size);
		status = g_stub->Ping(&context, out, &in);
		if (!status.ok())
			ipc_die("gRPC: %s", status.error_message().c_str());
		memcpy(run->buf, in.data().data(), run->size);
		more = ipc_sample(run, start, ipc_ticks());
	} while (more);
}

static void push(struct ipc_run *run)
{
	/* Neither is destroyed: that would wait for the server's answer, and the count of what arrived comes first. */
	auto *context = new grpc::ClientContext;
	auto *reply = new Payload;
	auto *writer = g_stub->Push(context, reply).release();
	Payload out;
	uint64_t n = 0;

	do {
		for (int i = 0; i < 8; i++, n++) {
			out.set_data(run->buf, run->size);
			if (!writer->Write(out))
				ipc_die("gRPC: the stream broke");
		}
	} while (ipc_stream_goes_on(run, n));
}

static void serve(struct ipc_run *run)
{
	g_server->Wait();
}

static void echo_open(struct ipc_run *run)
{
	g_run_ = run;
	g_url = "unix:/tmp/sealane-bench-grpc-" + std::to_string(getpid());
}

static void echo_attach(struct ipc_run *run)
{
	if (run->side == 0) {
		g_stub = Echo::NewStub(grpc::CreateChannel(g_url, grpc::InsecureChannelCredentials()));
		return;
	}
	grpc::ServerBuilder builder;

	builder.AddListeningPort(g_url, grpc::InsecureServerCredentials());
	builder.RegisterService(new EchoService);
	g_server = builder.BuildAndStart();
	if (!g_server)
		ipc_die("gRPC: no server on %s", g_url.c_str());
}

static void echo_close(struct ipc_run *run)
{
	unlink(g_url.c_str() + strlen("unix:"));
}

static void echo_loops(const struct ipc_run *run, ipc_loop **client, ipc_loop **server)
{
	*client = run->op == IPC_STREAM ? push : ping;
	*server = serve;
}

static struct ipc_peer echo_peer(void)
{
	struct ipc_peer p = {};

	p.name = "grpc";
	p.mode[IPC_MODE_BLOCK] = true;
	p.threads = true;
	p.open = echo_open;
	p.attach = echo_attach;
	p.close = echo_close;
	p.loops = echo_loops;
	return p;
}

const struct ipc_peer g_ipc_peers[] = { echo_peer(), {} };
