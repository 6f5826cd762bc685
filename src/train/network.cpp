#include "train/network.h"

#include "config/reader.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace sffn {
namespace {

constexpr double kGiga = 1e9, kMicro = 1e-6, kTera = 1e12;

// An integer, another finite number, or null.
Json number_of(const std::string& text) {
  const char *const begin = text.data(), *const end = begin + text.size();
  int64_t whole = 0;
  if (const auto read = std::from_chars(begin, end, whole); read.ec == std::errc() && read.ptr == end) return whole;
  double number = 0;
  const auto read = std::from_chars(begin, end, number);
  return read.ec == std::errc() && read.ptr == end && std::isfinite(number) ? Json(number) : Json();
}

// "key=number,key=number" as an object of them.
Json stated_figures(const std::string& option, const std::string& text) {
  Json figures = Json::object();
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size()), equals = text.find('=', at);
    const std::string item = text.substr(at, end - at);
    if (equals >= end || equals == at || equals + 1 == end) {
      throw UsageError(option, cat("\"", printable(item), "\" is not key=number"));
    }
    const std::string key = text.substr(at, equals - at), value = text.substr(equals + 1, end - equals - 1);
    if (figures.find(key) != nullptr) throw UsageError(option, cat(printable(key), " is given twice"));
    figures[key] = number_of(value);
    if (figures.find(key)->is_null()) throw UsageError(option, cat("\"", printable(item), "\" is not key=number"));
    at = end + 1;
  }
  return figures;
}

std::string four_digits(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

// near: the share of messages, and of bytes, that stay on a node.
double seconds(const Network& network, double near, const Sent& sent) {
  const Link far = network.net.value_or(network.node);
  const double latency = sent.messages * (near * network.node.latency + (1 - near) * far.latency);
  return latency + std::max(sent.bytes * near / network.node.bandwidth, sent.bytes * (1 - near) / far.bandwidth);
}

}  // namespace

Network parse_network(const std::string& text) {
  const Json figures = stated_figures("--network", text);
  ConfigReader reader(figures, "--network");
  Network network;
  network.per_node = reader.required<int64_t>("per_node", "Ranks of a node.", kAtLeastOne);
  network.node.bandwidth = kGiga * reader.required<double>("node_gbs", "GB/s to a rank of the node.", kPositive);
  network.node.latency = kMicro * reader.required<double>("node_us", "µs of a message there.", kPositive);
  const char* const rule = "one node";
  const auto bandwidth = reader.derived<double>("net_gbs", rule, "GB/s to a rank of another node.", kPositive);
  const auto latency = reader.derived<double>("net_us", rule, "µs of a message there.", kPositive);
  reader.finish();
  if (bandwidth.has_value() != latency.has_value()) {
    reader.fail(bandwidth ? "net_us" : "net_gbs", "is missing; net_gbs and net_us go together");
  }
  if (bandwidth) network.net = Link{.latency = kMicro * *latency, .bandwidth = kGiga * *bandwidth};
  return network;
}

std::string to_text(const Network& network) {
  const auto link = [](const char* name, const Link& l) {
    return cat(",", name, "_gbs=", four_digits(l.bandwidth / kGiga), ",", name,
               "_us=", four_digits(l.latency / kMicro));
  };
  return cat("per_node=", network.per_node, link("node", network.node), network.net ? link("net", *network.net) : "");
}

Rates parse_rates(const std::string& text) {
  const Json figures = stated_figures("--rates", text);
  ConfigReader reader(figures, "--rates");
  Rates rates;
  rates.flops = kTera * reader.required<double>("tflops", "TFLOP/s of a pass.", kPositive);
  rates.bandwidth = kGiga * reader.required<double>("gbs", "GB/s of the optimizer's update.", kPositive);
  reader.finish();
  return rates;
}

std::string to_text(const Rates& rates) {
  return cat("tflops=", four_digits(rates.flops / kTera), ",gbs=", four_digits(rates.bandwidth / kGiga));
}

RankSet spaced_ranks(const Network& network, int64_t ranks, int64_t stride) {
  const RankSet set{ranks, std::clamp<int64_t>(network.per_node / stride, 1, ranks)};
  if (set.on_node < ranks && !network.net) {
    throw UsageError("--network", cat("net_gbs and net_us are missing: with per_node ", network.per_node, ", ", ranks,
                                      ranks * stride > ranks ? cat(" of ", ranks * stride) : "",
                                      " ranks that exchange are on several nodes"));
  }
  return set;
}

double pairwise_seconds(const Network& network, const RankSet& set, const Sent& sent) {
  if (set.ranks == 1) return 0;
  return seconds(network, static_cast<double>(set.on_node - 1) / static_cast<double>(set.ranks - 1), sent);
}

double ring_seconds(const Network& network, const RankSet& set, const Sent& sent) {
  if (set.ranks == 1) return 0;
  if (set.on_node == set.ranks) return seconds(network, 1, sent);
  return seconds(network, static_cast<double>(set.on_node - 1) / static_cast<double>(set.on_node), sent);
}

double traffic_seconds(const Network& network, const RankSet& set, const Traffic& traffic, bool on_gpus) {
  const auto uneven = on_gpus ? pairwise_seconds : ring_seconds;
  return ring_seconds(network, set, traffic.all_gather) + uneven(network, set, traffic.uneven_all_gather) +
         pairwise_seconds(network, set, traffic.all_to_all) + pairwise_seconds(network, set, traffic.broadcast);
}

double exposed_seconds(const Trip& chunk, int64_t chunks) {
  if (chunks == 0) return 0;
  const double ends = chunk.bring + chunk.give_back;
  if (chunks == 1) return ends;
  const auto beyond = [&](double trip) { return std::max(0.0, trip - chunk.compute); };
  return ends + beyond(chunk.bring) + beyond(chunk.give_back) +
         static_cast<double>(chunks - 2) * beyond(chunk.bring + chunk.give_back);
}

}  // namespace sffn
