-- Refuse a request without a valid API key; tell the others' names.
-- The filter context has the path of the key file: lines of a key's SHA-256 and the client's name.
local LONGEST_KEY = 256
local FRESH = 1 -- seconds for which the file is not read again
local known = {path = nil, read_at = 0, names = {}}

-- Return the names by digest. A file that cannot be read has no keys.
local function read_names(path)
  local names, file = {}, io.open(path, "r")
  if not file then return names end
  for line in file:lines() do
    local digest, name = line:match("^(%x+) +%*?([%w_.@-]+)%s*$")
    if digest and #digest == 64 and #name <= 64 then names[digest] = name end
  end
  file:close()
  return names
end

local function names_in(path, now)
  if known.path ~= path or math.abs(now - known.read_at) >= FRESH then
    known = {path = path, read_at = now, names = read_names(path)}
  end
  return known.names
end

local function given_key(headers)
  local authorization = headers:get("authorization")
  if authorization then
    local scheme, key = authorization:match("^(%a+) +(%S+)$")
    if scheme and scheme:lower() == "bearer" then return key end
  end
  return headers:get("x-api-key")
end

local function check_key(handle)
  local headers = handle:headers()
  local key = given_key(headers)
  if not key then
    refuse(handle, 401, 16, "An API key is required.", "Bearer")
    return
  end
  local names = names_in(handle:filterContext():get("keys"), os.time())
  local name = #key <= LONGEST_KEY and names[sha256(key)]
  if not name then
    refuse(handle, 401, 16, "The API key is not valid.", 'Bearer error="invalid_token"')
    return
  end
  headers:remove("authorization")
  headers:remove("x-api-key")
  headers:replace("x-client-id", name)
end

function envoy_on_request(handle) guarded(handle, check_key) end
