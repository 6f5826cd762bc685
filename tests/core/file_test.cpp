#include "core/file.h"

#include "support/catch.h"
#include "support/error_of.h"
#include "support/temp_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

using namespace sffn;
using sffn::test::Caught;
using sffn::test::error_of;
using sffn::test::read_text;
using sffn::test::TempFolder;
using sffn::test::write_text;

// Kills: ignoring the caller's code, dropping the path or the system's reason.
TEST_CASE("a file that cannot be opened is an error of the caller's code with path and reason", "[file]") {
  const TempFolder folder;
  const std::string path = folder / "absent";
  const Caught read = error_of([&] { File::open(path, File::Mode::kRead, ExitCode::kDamaged); });
  CHECK(read.code == ExitCode::kDamaged);
  CHECK(read.what == path + ": cannot open for reading: No such file or directory");
  const Caught write = error_of([&] { File::open(folder / "no/file", File::Mode::kTruncate); });
  CHECK(write.code == ExitCode::kRunFailed);
  CHECK(write.says("cannot open for writing"));
  write_text(path, "x");
  CHECK(error_of([&] { File::open(path, File::Mode::kCreateNew); }).says("File exists"));
}

// Kills: reading a folder as an empty file, blocking on a pipe without a writer.
TEST_CASE("only regular files are read", "[file]") {
  const TempFolder folder;
  CHECK(error_of([&] { File::open(folder.path(), File::Mode::kRead); }).says("is not a regular file"));
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(error_of([&] { read_file(folder / "pipe", 100, ExitCode::kUsage); }).says("is not a regular file"));
}

// Kills: following a link or leaving the folder through a name from another file.
TEST_CASE("a file beneath a folder is a plain name and not a link", "[file]") {
  const TempFolder folder;
  write_text(folder / "shard", "data");
  std::filesystem::create_symlink(folder / "shard", folder / "link");
  CHECK(File::open_beneath(folder.path(), "shard").size() == 4);
  CHECK(error_of([&] { File::open_beneath(folder.path(), "link"); }).says("it is a link"));
  CHECK(error_of([&] { File::open_beneath(folder.path(), "../shard"); }).says("not a plain name"));
  CHECK(error_of([&] { File::open_beneath(folder.path(), "gone"); }).code == ExitCode::kDamaged);
  CHECK_FALSE(is_plain_file_name(".."));
  CHECK_FALSE(is_plain_file_name(""));
  CHECK_FALSE(is_plain_file_name(std::string_view("a\0b", 3)));
  CHECK_FALSE(is_plain_file_name(std::string(256, 'a')));
  CHECK(is_plain_file_name("..a"));
}

// Kills: a short read that goes on with old memory, a message without the offset.
TEST_CASE("reading past the end is damage that names the offset", "[file]") {
  const TempFolder folder;
  write_text(folder / "f", "0123456789");
  const File file = File::open(folder / "f", File::Mode::kRead);
  std::string got(4, ' ');
  file.read_exact(got.data(), 4, 6);
  CHECK(got == "6789");
  CHECK(file.read_some(got.data(), 4, 8) == 2);
  CHECK(file.read_some(got.data(), 4, 10) == 0);
  const Caught caught = error_of([&] { file.read_exact(got.data(), 4, 8); });
  CHECK(caught.code == ExitCode::kDamaged);
  CHECK(caught.what == (folder / "f") + ": ends at offset 10; 2 more bytes were expected");
}

// Kills: write errors that are swallowed (a full device accepts the open).
TEST_CASE("a full device is an error when writing", "[file]") {
  if (!exists("/dev/full")) return;
  File file = File::open("/dev/full", File::Mode::kAppend);
  CHECK(error_of([&] { file.write("x", 1); }).what == "/dev/full: cannot write: No space left on device");
}

// Kills: writing at the current position, losing the end of a file that was reserved.
TEST_CASE("pieces are written where they belong", "[file]") {
  const TempFolder folder;
  File file = File::open(folder / "f", File::Mode::kCreateNew);
  file.reserve(0);
  file.write("abcdef", 6);
  file.write_at("XY", 2, 2);
  file.write("gh", 2);
  file.sync();
  file.close();
  CHECK(read_text(folder / "f") == "abXYefgh");
  File more = File::open(folder / "f", File::Mode::kAppend);
  more.write("!", 1);
  more.close();
  CHECK(read_text(folder / "f") == "abXYefgh!");
}

// Kills: reading a file of any size into memory.
TEST_CASE("a file larger than the limit is refused before it is read", "[file]") {
  const TempFolder folder;
  write_text(folder / "f", "12345");
  CHECK(read_file(folder / "f", 5, ExitCode::kUsage) == "12345");
  const Caught caught = error_of([&] { read_file(folder / "f", 4, ExitCode::kUsage); });
  CHECK(caught.code == ExitCode::kUsage);
  CHECK(caught.says("is 5 bytes; at most 4 are read"));
}

// Kills: writing in place, leaving the temporary file behind.
TEST_CASE("an atomic write replaces the file and leaves nothing beside it", "[file]") {
  const TempFolder folder;
  write_file_atomically(folder / "f", "old");
  const std::string link = folder / "still-old";
  REQUIRE(::link((folder / "f").c_str(), link.c_str()) == 0);
  write_file_atomically(folder / "f", "new");
  CHECK(read_text(folder / "f") == "new");
  CHECK(read_text(link) == "old");
  CHECK(list_directory(folder.path()) == std::vector<std::string>{"f", "still-old"});
}

// Kills: following links when removing, unsorted listings, errors on absent folders.
TEST_CASE("folders are made, listed in order, matched by patterns and removed", "[file]") {
  const TempFolder folder;
  make_directories(folder / "a/b/c");
  make_directories(folder / "a/b/c");
  for (const char* name : {"a/t-2.bin", "a/t-1.bin", "a/u.bin"}) write_text(folder / name, "");
  CHECK(list_directory(folder / "a") == std::vector<std::string>{"b", "t-1.bin", "t-2.bin", "u.bin"});
  CHECK(list_directory(folder / "none").empty());
  CHECK(glob_paths(folder / "a/t-*.bin") == std::vector<std::string>{folder / "a/t-1.bin", folder / "a/t-2.bin"});
  CHECK(glob_paths(folder / "a/u.bin") == std::vector<std::string>{folder / "a/u.bin"});
  CHECK(glob_paths(folder / "a/x*").empty());
  CHECK(error_of([&] { make_directories(folder / "a/u.bin/d"); }).code == ExitCode::kUsage);
  CHECK(error_of([&] { rename_path(folder / "x", folder / "y"); }).says("cannot rename"));

  write_text(folder / "outside", "kept");
  std::filesystem::create_symlink(folder / "outside", folder / "a/link");
  remove_tree(folder / "a");
  CHECK_FALSE(exists(folder / "a"));
  CHECK(read_text(folder / "outside") == "kept");
}

// Kills: closing a moved-from descriptor, or leaking the old one.
TEST_CASE("a moved file stays open once", "[file]") {
  const TempFolder folder;
  write_text(folder / "f", "abc");
  File first = File::open(folder / "f", File::Mode::kRead);
  const int descriptor = first.descriptor();
  {
    File second = std::move(first);
    CHECK(second.descriptor() == descriptor);
    CHECK(first.descriptor() == -1);  // NOLINT: the empty state is what is tested
    first = std::move(second);
  }
  CHECK(first.size() == 3);
  first.close();
  CHECK(fcntl(descriptor, F_GETFD) == -1);
}
