#include "config/config.h"

#include "config/schema.h"
#include "core/file.h"
#include "support/catch.h"
#include "support/paths.h"

#include <filesystem>

using namespace sffn;

namespace {

const std::string kConfigs = std::string(SFFN_SOURCE_DIR) + "/configs";

}  // namespace

// Kills: a key that is read but not written, or written under another name or type.
TEST_CASE("every committed configuration resolves to itself", "[config]") {
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".json") continue;
    INFO(entry.path());
    const Config config = load_config(entry.path().string(), {});
    const Json resolved = to_json(config);
    CHECK(parse_config(resolved, "resolved") == config);
    CHECK(to_json(parse_config(resolved, "resolved")) == resolved);
    CHECK(to_json(parse_config(parse_json(resolved.dump(2), "text", ExitCode::kUsage), "text")) == resolved);
    ++files;
  }
  CHECK(files >= 6);
}
