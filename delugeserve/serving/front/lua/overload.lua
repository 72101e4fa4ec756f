-- Tell a server with a full queue from one that is gone: Triton calls both UNAVAILABLE. The first
-- becomes RESOURCE_EXHAUSTED, so that Envoy does not take the server for a broken one.
function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get("grpc-status") ~= "14" then return end
  local message = headers:get("grpc-message") or ""
  if message:find("queue", 1, true) or message:find("timeout expired", 1, true) then
    headers:replace("grpc-status", "8")
  end
end
