-- Refuse a request without a valid API key; tell the others' names.
-- The filter context has the name of each key, by the SHA-256 of the key.
local LONGEST_KEY = 256

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
  local name = #key <= LONGEST_KEY and handle:filterContext():get(sha256(key))
  if not name then
    refuse(handle, 401, 16, "The API key is not valid.", 'Bearer error="invalid_token"')
    return
  end
  headers:remove("authorization")
  headers:remove("x-api-key")
  headers:replace("x-client-id", name)
end

function envoy_on_request(handle) guarded(handle, check_key) end
