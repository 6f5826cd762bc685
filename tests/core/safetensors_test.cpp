#include "core/safetensors.h"

#include "support/catch.h"
#include "support/temp_folder.h"

#include <sys/stat.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

using namespace sffn;
using namespace sffn::test;

namespace {

std::string number(uint64_t value) { return std::string(reinterpret_cast<const char*>(&value), 8); }
std::string file_of(const std::string& header, size_t data_bytes) {
  return number(header.size()) + header + std::string(data_bytes, '\1');
}
std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}
std::string header_of(const std::string& inside) { return "{" + inside + "}"; }

std::string golden() {
  const float values[] = {1.0f, -2.0f};
  return number(88) + R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})" +
         "   " + std::string(reinterpret_cast<const char*>(values), 8);
}

std::string error_of(const TempFolder& folder, const std::string& bytes) {
  write_text(folder / "x.safetensors", bytes);
  try {
    SafetensorsFile file(folder / "x.safetensors");
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::kDamaged);
    return e.what();
  }
  return "";
}

}  // namespace

// Kills: a header padded to another size, metadata behind the tensors, offsets counted from the file's start.
TEST_CASE("the published 104-byte file is written and read back byte for byte", "[safetensors]") {
  TempFolder folder;
  const std::vector<float> values{1.0f, -2.0f};
  write_safetensors(folder / "g.safetensors", {{{"w", DType::kF32, {2}}, values.data()}});
  REQUIRE(read_text(folder / "g.safetensors") == golden());
  const SafetensorsFile file(folder / "g.safetensors");
  CHECK(file.read_all<float>(*file.find("w")) == values);
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.find("v") == nullptr);
}

// Kills: sorting by name alone, a lost sign or payload of a NaN, offsets of 0-d and empty tensors.
TEST_CASE("every element type, scalars and empty tensors survive a file", "[safetensors]") {
  TempFolder folder;
  std::mt19937 random(7);
  std::vector<float> f32(33);
  std::vector<double> f64(31);
  std::vector<bfloat16> bf16(127);
  std::vector<int32_t> i32(1);
  for (auto& v : f32) v = std::bit_cast<float>(static_cast<uint32_t>(random()));
  for (auto& v : f64) v = std::bit_cast<double>(uint64_t{random()} << 32 | random());
  for (auto& v : bf16) v.bits = static_cast<uint16_t>(random());
  i32[0] = std::numeric_limits<int32_t>::min();
  write_safetensors(folder / "t",
                    {{{"a.bf16", DType::kBF16, {127, 1}}, bf16.data()},
                     {{"b.f64", DType::kF64, {31}}, f64.data()},
                     {{"c.f32", DType::kF32, {3, 11}}, f32.data()},
                     {{"a.f32.empty", DType::kF32, {0, 5}}, nullptr},
                     {{"a.i32", DType::kI32, {}}, i32.data()}},
                    {{"note", "x\ny"}});
  const SafetensorsFile file(folder / "t");
  const auto bits_equal = [&](const char* name, const auto& expected) {
    using T = typename std::decay_t<decltype(expected)>::value_type;
    const std::vector<T> got = file.read_all<T>(*file.find(name));
    return got.size() == expected.size() && std::memcmp(got.data(), expected.data(), got.size() * sizeof(T)) == 0;
  };
  CHECK(bits_equal("a.bf16", bf16));
  CHECK(bits_equal("b.f64", f64));
  CHECK(bits_equal("c.f32", f32));
  CHECK(bits_equal("a.i32", i32));
  CHECK(file.find("a.f32.empty")->numel() == 0);
  CHECK(file.find("a.i32")->shape.empty());
  CHECK(file.metadata().at("note") == "x\ny");
  std::vector<std::string> order;
  for (const SafetensorsEntry& entry : file.entries()) order.push_back(entry.name);
  CHECK(order == std::vector<std::string>{"b.f64", "a.f32.empty", "c.f32", "a.i32", "a.bf16"});

  float part[5];
  file.read(*file.find("c.f32"), 28, 5, part);
  CHECK(std::memcmp(part, f32.data() + 28, sizeof part) == 0);
  CHECK_THROWS_AS(file.read(*file.find("c.f32"), 29, 5, part), RunError);
  CHECK_THROWS_AS(file.read(*file.find("b.f64"), 0, 1, part), RunError);
}

// Kills: any one check of the reader: every row fails by one rule only and differs from a good file by that.
TEST_CASE("each kind of hostile file is refused with its reason", "[safetensors]") {
  TempFolder folder;
  const std::string w = tensor("w", "F32", "[2]", "[0,8]");
  const std::string long_name(1025, 'n');
  struct Case {
    const char* says;
    std::string bytes;
  };
  const std::vector<Case> cases{
      {"is 0 bytes", ""},
      {"is 7 bytes", std::string(7, '\0')},
      {"claims 3 bytes", number(3) + "{}"},
      {"claims 18446744073709551615", number(~uint64_t{0}) + "{}"},
      {"claims 18446744073709551612", number(~uint64_t{0} - 3) + "{}"},
      {"does not start with {", file_of("", 0)},
      {"does not start with {", file_of(" {}", 0)},
      {"does not start with {", file_of("[]", 0)},
      {"not valid JSON", file_of("{\"w\":", 0)},
      {"not valid JSON", file_of("{}x", 0)},
      {"not valid JSON", file_of("{\"\xff\":1}", 0)},
      {"stands twice", file_of(header_of(w + "," + w), 8)},
      {"stands twice", file_of(header_of(R"("__metadata__":{"a":"1","a":"2"})"), 0)},
      {"more than strings", file_of(header_of(R"("__metadata__":{"a":1})"), 0)},
      {"not an object", file_of(header_of(R"("__metadata__":[])"), 0)},
      {"is not {", file_of(header_of("\"w\":[]"), 8)},
      {"is not {", file_of(header_of("\"w\":{\"dtype\":\"F32\",\"shape\":[2]}"), 8)},
      {"is not {", file_of(header_of(R"("w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"), 8)},
      {"is not {", file_of(header_of(R"("w":{"dtype":1,"shape":[2],"data_offsets":[0,8]})"), 8)},
      {"unknown element type", file_of(header_of(tensor("w", "F31", "[2]", "[0,8]")), 8)},
      {"its shape holds -2", file_of(header_of(tensor("w", "F32", "[-2]", "[0,8]")), 8)},
      {"its shape holds 2.0", file_of(header_of(tensor("w", "F32", "[2.0]", "[0,8]")), 8)},
      {"its shape holds \"2\"", file_of(header_of(tensor("w", "F32", "[\"2\"]", "[0,8]")), 8)},
      {"beyond 2^63", file_of(header_of(tensor("w", "F32", "[18446744073709551615]", "[0,8]")), 8)},
      {"9 dimensions", file_of(header_of(tensor("w", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]")), 8)},
      {"size overflows", file_of(header_of(tensor("w", "F32", "[4294967296,4294967296]", "[0,8]")), 8)},
      {"size overflows", file_of(header_of(tensor("w", "F32", "[4611686018427387904]", "[0,0]")), 0)},
      {"whole number of bytes", file_of(header_of(tensor("w", "F4", "[3]", "[0,1]")), 1)},
      {"not two numbers", file_of(header_of(tensor("w", "F32", "[2]", "[0,8,8]")), 8)},
      {"data_offsets holds -1", file_of(header_of(tensor("w", "F32", "[2]", "[-1,7]")), 8)},
      {"do not span", file_of(header_of(tensor("w", "F32", "[2]", "[8,0]")), 8)},
      {"do not span", file_of(header_of(tensor("w", "F32", "[2]", "[0,4]")), 4)},
      {"without holes", file_of(header_of(tensor("w", "F32", "[2]", "[4,12]")), 12)},
      {"without holes", file_of(header_of(w + "," + tensor("v", "F32", "[2]", "[12,20]")), 20)},
      {"without holes", file_of(header_of(w + "," + tensor("v", "F32", "[2]", "[4,12]")), 12)},
      {"without holes", file_of(header_of(w + "," + tensor("v", "F32", "[2]", "[0,8]")), 8)},
      {"without holes", file_of(header_of(w), 7)},
      {"its tensors take 8", file_of(header_of(w), 9)},
      {"its tensors take 0", file_of("{}", 1)},
      {"its name has control", file_of(header_of(tensor("w\\u001b[2J", "F32", "[2]", "[0,8]")), 8)},
      {"its name has control", file_of(header_of(tensor(long_name, "F32", "[2]", "[0,8]")), 8)},
  };
  for (const Case& c : cases) {
    const std::string error = error_of(folder, c.bytes);
    INFO("expected: " << c.says << "\nsaid: " << error);
    CHECK(error.find(c.says) != std::string::npos);
    CHECK(error.find("x.safetensors") != std::string::npos);
    CHECK(error.find('\x1b') == std::string::npos);
  }
}

// Kills: limits off by one, and refusing what the format allows.
TEST_CASE("files at the limits are read", "[safetensors]") {
  TempFolder folder;
  CHECK(error_of(folder, file_of("{}", 0)).empty());
  CHECK(error_of(folder, file_of("{}   ", 0)).empty());
  CHECK(error_of(folder, file_of(header_of(tensor("w", "F32", "[1,1,1,1,1,1,1,2]", "[0,8]")), 8)).empty());
  CHECK(error_of(folder, file_of(header_of(tensor(std::string(1024, 'n'), "F32", "[2]", "[0,8]")), 8)).empty());
  CHECK(error_of(folder, file_of(header_of(tensor("w", "F4", "[4]", "[0,2]")), 2)).empty());
  CHECK(error_of(folder, file_of(header_of(tensor("a", "F32", "[2]", "[0,8]") + "," +
                                           tensor("b", "U8", "[0]", "[8,8]") + "," + tensor("c", "I8", "[0]", "[0,0]")),
                                 8))
            .empty());
  CHECK(error_of(folder, file_of(header_of(tensor("w", "U64", "[]", "[0,8]")), 8)).empty());
}

// Kills: quadratic search for duplicate keys or tensors (a minute instead of a fraction of a second).
TEST_CASE("a header of a hundred thousand tensors is read in linear time", "[safetensors]") {
  TempFolder folder;
  std::string inside;
  for (int i = 0; i < 100000; ++i) inside += (i ? "," : "") + tensor("t" + std::to_string(i), "F32", "[0]", "[0,0]");
  write_text(folder / "x", file_of(header_of(inside), 0));
  const SafetensorsFile file(folder / "x");
  CHECK(file.entries().size() == 100000);
  CHECK(file.find("t99999") != nullptr);
}

// Kills: writing names that no reader takes back.
TEST_CASE("tensors that could not be read back are not written", "[safetensors]") {
  CHECK_THROWS_AS(lay_out_safetensors({{"a\nb", DType::kF32, {1}}}), RunError);
  CHECK_THROWS_AS(lay_out_safetensors({{"__metadata__", DType::kF32, {1}}}), RunError);
  CHECK_THROWS_AS(lay_out_safetensors({{"a", DType::kF32, {1}}, {"a", DType::kI32, {1}}}), RunError);
  CHECK_THROWS_AS(lay_out_safetensors({{"a", DType::kC128, {1}}}), RunError);
}

// Kills: blocking for ever on a FIFO, following a link out of the folder.
TEST_CASE("only regular files are read, and names from files do not lead out of their folder", "[safetensors][file]") {
  TempFolder folder;
  REQUIRE(mkfifo((folder / "fifo").c_str(), 0600) == 0);
  CHECK_THROWS_AS(SafetensorsFile(folder / "fifo"), Error);
  CHECK_THROWS_AS(SafetensorsFile(folder.path()), Error);
  write_text(folder / "real", golden());
  std::filesystem::create_symlink(folder / "real", folder / "link");
  std::filesystem::create_directory(folder / "sub");
  CHECK(File::open_beneath(folder.path(), "real").size() == 104);
  for (const char* name : {"link", "../real", "sub/../real", "..", ".", "", "fifo"}) {
    CHECK_THROWS_AS(File::open_beneath(folder.path(), name), Error);
  }
}
