-- Refuse what would crash or stall a server, note the model for the log, and hide a server's paths.
-- The filter context has the limits `json_bytes` and `json_depth`.
local byte, sub = string.byte, string.sub

-- A machine of three states reads JSON: outside a string, inside, after a backslash. It has no
-- branches: LuaJIT compiles it to one loop that no input slows down.
local ffi = require("ffi")
local OUTSIDE, INSIDE, ESCAPED = 0, 256, 512
local following, deeper = ffi.new("int32_t[768]"), ffi.new("int32_t[768]")
for code = 0, 255 do
  following[INSIDE + code], following[ESCAPED + code] = INSIDE, INSIDE
end
following[OUTSIDE + byte('"')], following[INSIDE + byte('"')] = INSIDE, OUTSIDE
following[INSIDE + byte("\\")] = ESCAPED
deeper[byte("[")], deeper[byte("{")], deeper[byte("]")], deeper[byte("}")] = 1, 1, -1, -1

-- Return whether arrays and objects of a JSON text are nested more than `most` deep.
local function too_deep(text, most)
  local bytes, depth, state = ffi.cast("const uint8_t *", text), 0, OUTSIDE
  for index = 0, #text - 1 do
    local read = state + bytes[index]
    depth, state = depth + deeper[read], following[read]
    if depth > most then return true end
  end
  return false
end

-- Return the model of an inference request of gRPC: field 1, which every client writes first.
local function grpc_model(start)
  local tag, length = byte(start, 6, 7)
  if tag == 10 and length and length < 128 and #start >= 7 + length then
    return sub(start, 8, 7 + length)
  end
end

-- Return an error message without tracebacks, and without the folders of paths.
local function without_details(message)
  message = message:gsub("%s*Traceback.*", ""):gsub("%s*At:%s*/.*", "")
  message = message:gsub("%%0A", " "):gsub("%s*At:%s*/.*", "")
  message = message:gsub("(%f[%w/])/[%w_.%-]+/[%w_.%-/]*", "")
  return message == "" and "The server failed." or message
end

local function note_model(handle, model)
  if model then handle:streamInfo():dynamicMetadata():set("delugeserve", "model", model) end
end

local function check_grpc(handle, body)
  local start = body:getBytes(0, math.min(body:length(), 160))
  if byte(start, 1) == 1 then
    refuse(handle, 415, 12, "Compressed messages are not accepted.")
  else
    note_model(handle, grpc_model(start))
  end
end

local function check_json(handle, body)
  local context, length = handle:filterContext(), body:length()
  local given = handle:headers():get("inference-header-content-length")
  if given then
    local number = given:match("^%d+$") and tonumber(given)
    if not number or number > length then
      refuse(handle, 400, 3, "The header inference-header-content-length is wrong.")
      return
    end
    length = number
  end
  if length > context:get("json_bytes") then
    refuse(handle, 413, 8, "The JSON of the request is too large.")
  elseif too_deep(body:getBytes(0, length), context:get("json_depth")) then
    refuse(handle, 400, 3, "The JSON of the request is nested too deep.")
  end
end

local function check_request(handle)
  local headers = handle:headers()
  local encoding = headers:get("content-encoding")
  if encoding and encoding ~= "identity" then
    refuse(handle, 415, 12, "Compressed requests are not accepted.")
    return
  end
  local path = headers:get(":path")
  local grpc = is_grpc(headers)
  local body = handle:body() -- an object taken before, such as the headers, is no longer valid
  if grpc then
    if body then check_grpc(handle, body) end
    return
  end
  note_model(handle, path:match("^/v2/models/([%w_.%-]+)") or path:match("[?&]model=([%w_.%-]+)"))
  if body and path:sub(1, 4) == "/v2/" then check_json(handle, body) end
end

local function hide_details(handle)
  local headers = handle:headers()
  local message = headers:get("grpc-message")
  if message then headers:replace("grpc-message", without_details(message)) end
  local status = tonumber(headers:get(":status"))
  if not status or status < 400 then return end
  local body = handle:body()
  if body then
    local text = body:getBytes(0, body:length())
    local length = body:setBytes(without_details(text))
    handle:headers():replace("content-length", length)
    -- Triton answers 500 to JSON that it cannot read, which is the client's error.
    local unread = text:find("failed to parse", 1, true) or text:find("Unable to parse", 1, true)
    if status == 500 and unread then
      handle:headers():replace(":status", "400")
    end
  end
end

function envoy_on_request(handle) guarded(handle, check_request) end

function envoy_on_response(handle)
  -- An error here leaves the answer as it is.
  hide_details(handle)
end
