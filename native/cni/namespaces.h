// What to go by while no agent answers: the file in which it keeps the namespaces with pods of the mesh.
#pragma once
#include <string>
#include <string_view>

namespace cni {

enum class Membership {
  // There is no file: the mesh is not on this node, or no longer.
  NoMesh,
  // The namespace is not in the mesh.
  Outside,
  Open,
  Closed,
  // There is a file, and it cannot be understood.
  Unreadable,
};

Membership ReadMembership(const std::string& path, std::string_view space);

// Of the file's text.
Membership MembershipIn(std::string_view text, std::string_view space);

}  // namespace cni
