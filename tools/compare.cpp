// sffn compare: two backends in lockstep, and the first tensor in which they differ.
#include "train/compare.h"

#include "core/log.h"
#include "tools/commands.h"
#include "tools/numbers.h"
#include "tools/options.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <map>
#include <memory>

namespace sffn {
namespace {

struct Arguments {
  std::string config;
  std::vector<std::string> overrides, backends = {"cpu", "cuda"};
  int64_t steps = 3;
  bool json = false;
};

// The worst of each tensor over the steps so far, in the order of a step.
class Worst {
 public:
  void add(const ComparedStep& step) {
    for (const ComparedTensor& tensor : step.tensors) {
      if (!first_.name.empty()) break;
      if (tensor.differs()) first_ = tensor, first_step_ = step.step;
    }
    for (size_t i = 0; i < step.tensors.size(); ++i) {
      if (i == tensors_.size()) tensors_.push_back(step.tensors[i]);
      if (!(step.tensors[i].error <= tensors_[i].error)) tensors_[i] = step.tensors[i];
    }
    steps_ = step.step;
  }
  bool agree() const { return first_.name.empty(); }

  Json report(const Arguments& arguments) const {
    Json json = Json::object();
    json["backends"] = Json::Array{arguments.backends[0], arguments.backends[1]};
    json["steps"] = steps_;
    json["agree"] = agree();
    Json& list = json["tensors"] = Json::Array();
    for (const ComparedTensor& tensor : tensors_) list.push_back(to_json(tensor));
    if (!agree()) {
      json["first"] = to_json(first_);
      json["first"]["step"] = first_step_;
    }
    return json;
  }
  void print(const Arguments& arguments) const {
    std::printf("%-44s %12s %12s\n", "tensor", "worst error", "tolerance");
    for (const ComparedTensor& tensor : tensors_) {
      std::printf("%-44s %12.3e %12.0e%s\n", tensor.name.c_str(), tensor.error, tensor.tolerance,
                  tensor.differs() ? "  differs" : "");
    }
    if (agree()) {
      std::printf("%s and %s agree over %ld steps\n", arguments.backends[0].c_str(), arguments.backends[1].c_str(),
                  static_cast<long>(steps_));
    } else {
      std::printf("step %ld: %s is the first that differs\n", static_cast<long>(first_step_), first_.name.c_str());
    }
  }

 private:
  static Json to_json(const ComparedTensor& tensor) {
    Json json = Json::object();
    json["name"] = tensor.name;
    json["error"] = tensor.error;
    json["tolerance"] = tensor.tolerance;
    return json;
  }

  std::vector<ComparedTensor> tensors_;
  ComparedTensor first_;
  int64_t first_step_ = 0, steps_ = 0;
};

int run(const Arguments& arguments) {
  log::start(0, output_of(arguments.json, log::Output::kResult));
  if (arguments.backends.size() != 2) throw UsageError("--backends", "takes two, as in cpu,cuda");
  std::string limits = "cpu";  // of a GPU where there is one
  for (const std::string& backend : arguments.backends) {
    if (backend != "cpu" && backend != "cuda") {
      throw UsageError("--backends", cat("\"", backend, "\" is not a backend; cpu and cuda are"));
    }
    if (backend == "cuda") limits = backend;
  }
  Config config = load_config_for(limits, arguments.config, arguments.overrides);
  if (config.model.vocab_size == 0) {
    throw UsageError("model.vocab_size", "is from_data, and a comparison reads no data; use --set model.vocab_size=N");
  }
  DeviceRuntime& first = open_device_alone(arguments.backends[0]);
  DeviceRuntime& second = open_device_alone(arguments.backends[1]);
  Worst worst;
  compare_devices(config, first, second, arguments.steps, [&](const ComparedStep& step) {
    worst.add(step);
    return worst.agree();
  });
  if (arguments.json)
    print_json(worst.report(arguments));
  else
    worst.print(arguments);
  return worst.agree() ? 0 : 1;
}

}  // namespace

void add_compare_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("compare", "two backends in lockstep: the first tensor that differs");
  command->add_option("config", arguments->config, "configuration file")->required();
  command->add_option("--set", arguments->overrides, "path.to.key=value, on top of the file; may repeat");
  command->add_option("--backends", arguments->backends, "two of cpu and cuda")->delimiter(',')->capture_default_str();
  command->add_option("--steps", arguments->steps, "training steps")->check(positive())->capture_default_str();
  command->add_flag("--json", arguments->json, "one JSON object on stdout");
  command->footer(
      "Example:\n  sffn compare configs/tiny/avg_k.json --backends cpu,cuda --steps 3\n"
      "Exit code 1 where they differ. An error is ‖a - b‖ / ‖a‖ of a tensor; after each step the second backend takes "
      "the "
      "first one's weights.");
  command->callback([arguments, &chosen] { chosen = [arguments] { return run(*arguments); }; });
}

}  // namespace sffn
