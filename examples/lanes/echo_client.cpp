/*
 * The echo client in C++17: a lane as an owning handle, errors as exceptions.
 *
 *   c++ -std=c++17 echo_client.cpp $(pkg-config --cflags --libs sealane) -o echo_client_cpp
 *   ./echo_client_cpp echo hello world
 */
#include <sealane.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr std::int64_t second = 1'000'000'000;

class Lane {
public:
	explicit Lane(const std::string &service)
	{
		sealane_options options = SEALANE_OPTIONS_INIT;
		sealane_lane *lane = nullptr;

		options.kind = SEALANE_MESSAGES;
		if (sealane_connect(&lane, service.c_str(), &options) < 0)
			throw std::runtime_error(sealane_last_error());
		lane_.reset(lane);
	}

	// `struct`, since there is a function of the same name
	const struct sealane_peer &peer() const { return *sealane_peer(lane_.get()); }

	void send(std::string_view text)
	{
		check(sealane_send(lane_.get(), text.data(), text.size(), second));
	}

	std::string receive()
	{
		ssize_t n = sealane_recv(lane_.get(), buffer_.data(), buffer_.size(), second);

		check(static_cast<int>(n));
		return std::string(buffer_.data(), static_cast<std::size_t>(n));
	}

private:
	static void check(int result)
	{
		if (result < 0)
			throw std::runtime_error(sealane_strerror(result));
	}

	struct Close {
		void operator()(sealane_lane *lane) const { sealane_close(lane); }
	};
	std::unique_ptr<sealane_lane, Close> lane_;
	std::vector<char> buffer_ = std::vector<char>(65536);
};

} // namespace

int main(int argc, char **argv)
try {
	Lane lane(argc > 1 ? argv[1] : "echo");

	std::cout << "connected to " << lane.peer().service << ", workload " << lane.peer().workload << "\n";
	for (int i = 2; i < argc; i++) {
		lane.send(argv[i]);
		std::cout << lane.receive() << "\n";
	}
	return 0;
} catch (const std::exception &e) {
	std::cerr << e.what() << "\n";
	return 1;
}
