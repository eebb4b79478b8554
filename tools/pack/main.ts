// `node tools/pack/main.ts [OUT]` writes every package as it is published below OUT (dist/packages): `npm pack OUT/lora`.
import { resolve } from 'node:path';
import { packageFolders, stagePackages } from './stage.ts';

const [out = 'dist/packages'] = process.argv.slice(2);
const root = resolve(import.meta.dirname, '../..');
for (const folder of await stagePackages(root, packageFolders(root), resolve(out))) console.log(folder);
