// An OpenID provider for the login tests: certified code, users and clients of our own.
// Arguments are the redirect URIs. Prints its issuer when it listens; ends when its standard input closes.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { Provider } from 'oidc-provider';

const redirects = process.argv.slice(2);
const users = {
  alice: { email: 'alice@example.test', groups: ['admins', 'dev'] },
  bob: { email: 'bob@example.test', groups: ['dev'] },
};

const jwk = (kid, alg, { privateKey }) => ({ ...privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig' });
const keys = [
  jwk('rsa', 'RS256', generateKeyPairSync('rsa', { modulusLength: 2048 })),
  jwk('ec', 'ES256', generateKeyPairSync('ec', { namedCurve: 'P-256' })),
];

const client = (extra) => ({
  redirect_uris: redirects,
  grant_types: ['authorization_code'],
  response_types: ['code'],
  ...extra,
});

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    jwks: { keys },
    clients: [
      client({ client_id: 'edge', client_secret: 'an odd:secret/+%' }),
      client({ client_id: 'public', token_endpoint_auth_method: 'none', id_token_signed_response_alg: 'ES256' }),
    ],
    claims: { openid: ['sub'], email: ['email'], groups: ['groups'] },
    scopes: ['openid', 'email', 'groups'],
    conformIdTokenClaims: false,
    features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
    cookies: { keys: ['only for tests'] },
    pkce: { required: () => true },
    ttl: { IdToken: 300, AccessToken: 300, Session: 600, Grant: 600, Interaction: 600 },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256'] },
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id, ...users[id] }) }),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});

process.stdin.on('end', () => process.exit(0)).resume();
